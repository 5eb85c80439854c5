"""Find in the chain's history the grants under which an adapter was registered."""

from __future__ import annotations

from typing import Final

from viz.chain import abi
from viz.chain.event_decoding import decode_logs
from viz.chain.log_completeness import logs_missing
from viz.chain.rpc import Rpc
from viz.chain.scan import scan
from viz.domain.ports.chain import AcquiredGrant, AdapterState, Deployment
from viz.domain.ports.transactions import Event
from viz.domain.units import Address, ContentId, Hash32

_REGISTRY: Final = "ContentRegistry"


async def acquired_grants(
    rpc: Rpc, deployment: Deployment, adapter: AdapterState
) -> tuple[AcquiredGrant, ...]:
    """Return the trainer's newest grant of each of the adapter's works before its registration.

    Two searches of the logs since the deployment. Raises ChainUnreachable, and ChainError if the
    endpoint does not serve the adapter's registration, or a grant: the contract asks for one of
    each work, and a work without one would look as if it was used without a license.
    """
    head = await rpc.block_number()
    registered = await _events(
        rpc,
        deployment,
        deployment.adapter_registry,
        (abi.event_topic("AdapterRegistry", "AdapterRegistered"), _word(adapter.adapter_id)),
        head,
    )
    if not registered:
        raise logs_missing(f"adapter {adapter.adapter_id} is registered", rpc.url)
    place = (registered[-1].block_number, registered[-1].log_index)
    trainer = bytes.fromhex(adapter.trainer.removeprefix("0x")).rjust(32, b"\0")
    topics = (abi.event_topic(_REGISTRY, "GrantAcquired"), None, trainer)
    bought = await _events(rpc, deployment, deployment.content_registry, topics, head)
    wanted = {content_id for content_id, _ in adapter.shares}
    found: dict[ContentId, AcquiredGrant] = {}
    for event in bought:
        content_id = ContentId(event.args["contentId"])
        if content_id in wanted and (event.block_number, event.log_index) < place:
            found[content_id] = _grant(content_id, event)
    if lacking := wanted - found.keys():
        under = f"under a grant of work {min(lacking)}"
        raise logs_missing(f"adapter {adapter.adapter_id} was registered {under}", rpc.url)
    return tuple(found[content_id] for content_id in sorted(found))


async def _events(
    rpc: Rpc,
    deployment: Deployment,
    contract: Address,
    topics: tuple[bytes | None, ...],
    last: int,
) -> tuple[Event, ...]:
    logs = [log async for log in scan(rpc, [contract], deployment.first_block, last, topics)]
    return decode_logs(deployment, logs)


def _grant(content_id: ContentId, event: Event) -> AcquiredGrant:
    args = event.args
    return AcquiredGrant(
        content_id,
        Address(args["trainer"]),
        Hash32(args["termsHash"]),
        Address(args["owner"]),
        int(args["fee"]),
        int(args["expiresAt"]),
        event.block_number,
        event.transaction_hash,
    )


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")
