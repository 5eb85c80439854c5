"""Our contracts' events in a chain's logs. Does not know where the logs come from."""

from __future__ import annotations

from collections.abc import Sequence

from viz.chain import abi
from viz.chain.deployment import contracts_by_address
from viz.chain.rpc import Log
from viz.domain.ports.chain import Deployment
from viz.domain.ports.transactions import Event


def decode_logs(deployment: Deployment, logs: Sequence[Log]) -> tuple[Event, ...]:
    """Return the events in ``logs`` that our contracts declare, in order."""
    names = contracts_by_address(deployment)
    events = []
    for log in logs:
        contract = names.get(log.address)
        decoded = abi.decode_event(contract, log.topics, log.data) if contract else None
        if contract is not None and decoded is not None:
            events.append(
                Event(
                    contract,
                    decoded[0],
                    decoded[1],
                    log.block_number,
                    log.block_hash,
                    log.transaction_hash,
                    log.log_index,
                )
            )
    return tuple(events)
