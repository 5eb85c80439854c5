"""Show nodes' certificates of what they destroyed of a work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    WorkId,
    guarded,
    lines,
    run,
    say,
    show,
)
from viz.cli.http import LOCAL_NODE, QUESTION_S, NodeUrl, ask, get_as
from viz.cli.own_chain import CreatorRpcOption, chain_if_given, trusted_deployment
from viz.domain.display import moment
from viz.errors import LicenseError, NodeNotTrusted

if TYPE_CHECKING:
    from viz.creator.certificate_checks import CertainTime
    from viz.domain.ports.chain import Deployment
    from viz.domain.units import Address
    from viz.protocol.destruction import DestructionCertificate

COVERS_CUSTODY: Final = (
    "only what the node held for others; adapters that it serves with the work end by their own "
    "dates, and have certificates of their own"
)

COVERS_LISTING: Final = (
    "only the listing with its sample, which ends with any withdrawal; custody and adapters end by "
    "their own dates, and have certificates of their own"
)


@guarded
def certificates(
    content_id: WorkId,
    node: NodeUrl = LOCAL_NODE,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Show a node's certificates of what it destroyed of a work, and check that it signed them.

    Also that what they say is possible and not of the future, and with --rpc that they have the
    chain's date of the withdrawal. A certificate is a signed statement of the node. It proves who
    said it, but not that no copy is left.
    """
    from viz.creator.certificate_checks import require_each_once, require_no_more, require_of
    from viz.domain.eip712 import settlement_domain
    from viz.protocol.answers import read_as
    from viz.protocol.destruction import Certificates

    trusted = trusted_deployment(deployment, folder)
    raw, asked, known = run(_read(content_id, node, rpc, trusted), logs=False)
    answer = read_as(Certificates.from_json, raw)
    found = answer.certificates
    where = settlement_domain(trusted.chain_id, trusted.settlement)
    for each in found:
        each.verify(where)
        if each.certificate.content_id != content_id:
            raise NodeNotTrusted(f"the node's certificate is of work {each.certificate.content_id}")
    if not show(answer.to_json(), as_json=as_json):
        if not found:
            say(f"the node at {node} has no certificate of work {content_id}")
        for each in found:
            say_certificate(each, asked)
    for each in found:
        require_of(each, asked, known)
    require_each_once(found)
    require_no_more(raw, answer.to_json())


async def _read(
    content_id: int, node: str, rpc: str, trusted: Deployment
) -> tuple[Any, Address, CertainTime]:
    """Return a node's certificates as JSON values, its address, and what is known of the times.

    Without ``rpc`` the date of the withdrawal is not known, and the newest time is this machine's.
    Raises NodeNotTrusted for a node of another chain, and LicenseError for a work that the chain
    does not have.
    """
    from viz.clock import SystemClock
    from viz.creator.certificate_checks import CertainTime
    from viz.domain.ports.chain import DEVELOPMENT_CHAINS
    from viz.domain.trust import require_as_trusted
    from viz.domain.units import ContentId
    from viz.protocol.destruction import CERTIFICATES_PATH
    from viz.protocol.messages import NodeInfo
    from viz.protocol.payment import NODE_PATH

    path = CERTIFICATES_PATH.format(content_id=content_id)
    answer = await ask("GET", node, path, timeout_s=QUESTION_S)
    info = await get_as(NodeInfo.from_json, node, NODE_PATH)
    require_as_trusted(trusted, chain_id=info.chain_id, settlement=info.settlement)
    now_s = SystemClock().now_s()
    async with chain_if_given(rpc, trusted) as chain:
        if chain is None:
            # Whoever runs a development chain moves its time, and the certificates' with it.
            moved = trusted.chain_id in DEVELOPMENT_CHAINS
            newest_s = max(now_s, info.chain_time_s) if moved else now_s
            return answer, info.node, CertainTime(newest_s, "the time by this machine's clock")
        content = await chain.content(ContentId(content_id))
        # An endpoint that is behind must not put a true certificate into the future.
        newest_s = max(await chain.chain_time(), now_s)
    if content is None:
        raise LicenseError(f"there is no work {content_id} on the chain: check the id")
    return answer, info.node, CertainTime(newest_s, withdrawn_at_s=content.withdrawn_at)


def say_certificate(made: DestructionCertificate, asked: Address) -> None:
    """Print one certificate that the node ``asked`` gave."""
    signed = made.certificate
    custody, listing = made.of_custody_only, made.of_listing_only
    # The node may sell another adapter with the work after that: only of these things it is true.
    ended = "custody ended" if custody else "listing ended" if listing else "use of these ended"
    told = [(ended, moment(signed.due_at_s))]
    if signed.withdrawn_at_s:
        told.insert(0, ("withdrawn", moment(signed.withdrawn_at_s)))
    if custody:
        told.append(("covers", COVERS_CUSTODY))
    if listing:
        told.append(("covers", COVERS_LISTING))
    by = signed.node if signed.node == asked else f"{signed.node}, which is NOT this node ({asked})"
    lines(
        f"Work {signed.content_id}, destroyed {moment(signed.time_s)}, signed by {by}",
        [
            *told,
            *(("destroyed", f"{item.kind} {item.name}") for item in made.destroyed),
            *(("left", f"{item.kind} {item.name}: {item.reason}") for item in made.left),
            *(("cannot recall", words) for words in made.beyond_recall),
        ],
    )
