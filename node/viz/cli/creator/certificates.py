"""Show nodes' certificates of what they destroyed of a work."""

from __future__ import annotations

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
from viz.cli.own_chain import trusted_deployment
from viz.domain.display import moment
from viz.errors import NodeNotTrusted

if TYPE_CHECKING:
    from viz.protocol.destruction import DestructionCertificate

COVERS_CUSTODY: Final = (
    "only what the node held for others; adapters that it serves with the work end by their own "
    "dates, and have certificates of their own"
)


@guarded
def certificates(
    content_id: WorkId,
    node: NodeUrl = LOCAL_NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Show a node's certificates of what it destroyed of a work, and check their signatures.

    A certificate is a signed statement of the node. It proves who said it, but not that no copy is
    left.
    """
    from viz.domain.eip712 import settlement_domain
    from viz.protocol.destruction import CERTIFICATES_PATH, Certificates

    trusted = trusted_deployment(deployment, folder)
    path = CERTIFICATES_PATH.format(content_id=content_id)
    answer = run(get_as(Certificates.from_json, node, path), logs=False)
    found = answer.certificates
    where = settlement_domain(trusted.chain_id, trusted.settlement)
    for each in found:
        each.verify(where)
        if each.certificate.content_id != content_id:
            raise NodeNotTrusted(f"the node's certificate is of work {each.certificate.content_id}")
    if show(answer.to_json(), as_json=as_json):
        return
    if not found:
        say(f"the node at {node} has no certificate of work {content_id}")
    for each in found:
        say_certificate(each)


def say_certificate(made: DestructionCertificate) -> None:
    """Print one certificate."""
    signed = made.certificate
    custody = made.of_custody_only
    # The node may sell another adapter with the work after that: only of these things it is true.
    told = [("custody ended" if custody else "use of these ended", moment(signed.due_at_s))]
    if signed.withdrawn_at_s:
        told.insert(0, ("withdrawn", moment(signed.withdrawn_at_s)))
    if custody:
        told.append(("covers", COVERS_CUSTODY))
    lines(
        f"Work {signed.content_id}, destroyed {moment(signed.time_s)}, signed by {signed.node}",
        [
            *told,
            *(("destroyed", f"{item.kind} {item.name}") for item in made.destroyed),
            *(("left", f"{item.kind} {item.name}: {item.reason}") for item in made.left),
            *(("cannot recall", words) for words in made.beyond_recall),
        ],
    )
