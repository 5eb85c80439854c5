"""Show nodes' certificates of what they destroyed of a work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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
from viz.cli.http import LOCAL_NODE, NodeUrl, get_as
from viz.cli.own_chain import CreatorRpcOption, chain_if_given, trusted_deployment
from viz.domain.display import moment
from viz.errors import LicenseError, NodeNotTrusted

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment
    from viz.domain.units import Address
    from viz.protocol.destruction import Certificates, DestructionCertificate

COVERS_CUSTODY: Final = (
    "only what the node held for others; adapters that it serves with the work end by their own "
    "dates, and have certificates of their own"
)

# Two endpoints of a chain are some blocks apart, and the reading of a withdrawal takes time.
APART_S: Final = 900

COVERS_LISTING: Final = (
    "only the listing with its sample, which ends with any withdrawal; custody and adapters end by "
    "their own dates, and have certificates of their own"
)


@dataclass(frozen=True, slots=True)
class WithdrawalOnChain:
    """When the chain says that a work was withdrawn (0: never), and its newest time, in seconds."""

    withdrawn_at_s: int
    newest_s: int


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

    Also that their dates are possible, and with --rpc that they are no later than the chain's, and
    have its date of the withdrawal. A certificate is a signed statement of the node. It proves who
    said it, but not that no copy is left.
    """
    from viz.domain.eip712 import settlement_domain

    trusted = trusted_deployment(deployment, folder)
    answer, asked, on_chain = run(_read(content_id, node, rpc, trusted), logs=False)
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
        require_of(each, asked, on_chain)


async def _read(
    content_id: int, node: str, rpc: str, trusted: Deployment
) -> tuple[Certificates, Address, WithdrawalOnChain | None]:
    """Return a node's certificates, its address, and what the chain says of the withdrawal.

    The last is None without ``rpc``. Raises NodeNotTrusted for a node of another chain, and
    LicenseError for a work that the chain does not have.
    """
    from viz.clock import SystemClock
    from viz.domain.trust import require_as_trusted
    from viz.domain.units import ContentId
    from viz.protocol.destruction import CERTIFICATES_PATH, Certificates
    from viz.protocol.messages import NodeInfo
    from viz.protocol.payment import NODE_PATH

    path = CERTIFICATES_PATH.format(content_id=content_id)
    answer = await get_as(Certificates.from_json, node, path)
    info = await get_as(NodeInfo.from_json, node, NODE_PATH)
    require_as_trusted(trusted, chain_id=info.chain_id, settlement=info.settlement)
    async with chain_if_given(rpc, trusted) as chain:
        if chain is None:
            return answer, info.node, None
        content = await chain.content(ContentId(content_id))
        # An endpoint that is behind must not put a true certificate into the future.
        newest_s = max(await chain.chain_time(), SystemClock().now_s())
    if content is None:
        raise LicenseError(f"there is no work {content_id} on the chain: check the id")
    return answer, info.node, WithdrawalOnChain(content.withdrawn_at, newest_s)


def require_of(
    made: DestructionCertificate, asked: Address, on_chain: WithdrawalOnChain | None
) -> None:
    """Raise NodeNotTrusted if another account signed a certificate than the node that was asked.

    Also if it cannot be true of itself, is of a later time than the chain's, or the chain's date of
    the withdrawal is another one; None is not compared. An owner may end a custody before the
    withdrawal, so a certificate of that may have no date.
    """
    signed = made.certificate
    if signed.node != asked:
        raise NodeNotTrusted(
            f"the certificate of {moment(signed.time_s)} is signed by {signed.node}, and the node "
            f"that gave it is {asked}: it is another account's statement, and says nothing of what "
            "this node destroyed"
        )
    if wrong := _impossible(made):
        raise NodeNotTrusted(
            f"a certificate of work {signed.content_id} cannot be true: {wrong}. It proves no "
            "destruction: ask the node's operator for a true one"
        )
    if on_chain is None:
        return
    if signed.time_s > on_chain.newest_s + APART_S:
        raise NodeNotTrusted(
            f"the certificate says that work {signed.content_id} was destroyed "
            f"{moment(signed.time_s)}, and the chain's newest time is {moment(on_chain.newest_s)}: "
            "it certifies what has not happened"
        )
    withdrawn_at = on_chain.withdrawn_at_s
    if signed.withdrawn_at_s == withdrawn_at:
        return
    if signed.withdrawn_at_s or not made.of_custody_only:
        said = _date(signed.withdrawn_at_s)
        raise NodeNotTrusted(
            f"the certificate of {moment(signed.time_s)} says that work {signed.content_id} was "
            f"withdrawn {said}, and the chain says {_date(withdrawn_at)}"
        )


def _impossible(made: DestructionCertificate) -> str:
    """Return why a certificate cannot be true, whatever the chain says; empty if it can.

    ``dueAt`` may be long before the withdrawal: a trainer can retire its adapter before the owner
    withdraws the work, and its weights are destroyed after that.
    """
    signed = made.certificate
    if not made.destroyed:
        return "it names nothing that was destroyed"
    for name, time_s in (("time", signed.time_s), ("dueAt", signed.due_at_s)):
        if not time_s:
            return f"its {name} is 0, which is no date"
    destroyed = moment(signed.time_s)
    if signed.time_s + APART_S < signed.withdrawn_at_s:
        withdrawn = moment(signed.withdrawn_at_s)
        return f"the work was destroyed {destroyed}, before it was withdrawn, {withdrawn}"
    if signed.time_s + APART_S < signed.due_at_s:
        due = moment(signed.due_at_s)
        return f"the work was destroyed {destroyed}, before its use ended, {due} (dueAt)"
    return ""


def _date(withdrawn_at_s: int) -> str:
    return moment(withdrawn_at_s) if withdrawn_at_s else "never"


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
