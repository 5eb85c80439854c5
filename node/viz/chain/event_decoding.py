"""Decode our contracts' events from the chain's logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from viz.chain import abi
from viz.chain.deployment import contracts_by_address
from viz.chain.rpc import Log
from viz.domain.ports.chain import Deployment
from viz.domain.ports.transactions import Event
from viz.errors import ChainUnreachable


def decode_logs(deployment: Deployment, logs: Sequence[Log]) -> tuple[Event, ...]:
    """Return the events in ``logs`` that our contracts declare, in order.

    Raises ChainUnreachable if a log of our contracts does not fit its ABI.
    """
    names = contracts_by_address(deployment)
    events = []
    for log in logs:
        contract = names.get(log.address)
        decoded = _decoded(contract, log) if contract else None
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


def _decoded(contract: str, log: Log) -> tuple[str, dict[str, Any]] | None:
    """Return an event's name and arguments; None for one that is not ours."""
    try:
        return abi.decode_event(contract, log.topics, log.data)
    except ChainUnreachable:
        if contract == abi.CURRENCY:  # tokens differ in which event arguments they index
            return None
        raise
