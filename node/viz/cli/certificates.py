"""Run `viz content certificates`: show a node's certificates of what it destroyed of a work."""

from __future__ import annotations

from viz.cli.console import AsJson, DataDir, DeploymentFile, WorkId, guarded, lines, run, say, show
from viz.cli.http import LOCAL_NODE, NodeUrl, get_json
from viz.cli.own_chain import trusted_deployment
from viz.domain.display import moment
from viz.errors import NodeNotTrusted


@guarded
def certificates(
    content_id: WorkId,
    node: NodeUrl = LOCAL_NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what a node says that it destroyed of a withdrawn work, and check its signature.

    A certificate is a signed statement of the node: it proves who said it, not that no copy is
    left.
    """
    from viz.domain.eip712 import settlement_domain
    from viz.protocol.destruction import CERTIFICATES_PATH, Certificates

    trusted = trusted_deployment(deployment, folder)
    answer = run(get_json(node, CERTIFICATES_PATH.format(content_id=content_id)), logs=False)
    found = Certificates.from_json(answer).certificates
    where = settlement_domain(trusted.chain_id, trusted.settlement)
    for each in found:
        each.verify(where)
        if each.certificate.content_id != content_id:
            raise NodeNotTrusted(f"the node's certificate is of work {each.certificate.content_id}")
    if show(answer, as_json=as_json):
        return
    if not found:
        say(f"the node at {node} has no certificate of work {content_id}")
    for each in found:
        signed = each.certificate
        lines(
            f"Work {content_id}, destroyed {moment(signed.time_s)}, signed by {signed.node}",
            [
                ("withdrawn", moment(signed.withdrawn_at_s)),
                ("use ended", moment(signed.due_at_s)),
                *(("destroyed", f"{item.kind} {item.name}") for item in each.destroyed),
                *(("left", f"{item.kind} {item.name}: {item.reason}") for item in each.left),
                *(("not to recall", words) for words in each.beyond_recall),
            ],
        )
