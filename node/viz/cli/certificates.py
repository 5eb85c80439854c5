"""End the custody of a work, and show nodes' certificates of what they destroyed of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    KeyFile,
    PasswordFile,
    WorkId,
    Yes,
    agreed,
    err,
    guarded,
    lines,
    out,
    password,
    run,
    say,
    show,
)
from viz.cli.http import LOCAL_NODE, NodeUrl, get_as
from viz.cli.own_chain import trusted_deployment
from viz.domain.display import moment
from viz.errors import NodeNotTrusted, VizError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eth_account.signers.local import LocalAccount

    from viz.domain.ports.chain import Deployment
    from viz.protocol.destruction import DestructionCertificate


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
    ended = [("withdrawn", moment(signed.withdrawn_at_s)), ("use ended", moment(signed.due_at_s))]
    lines(
        f"Work {signed.content_id}, destroyed {moment(signed.time_s)}, signed by {signed.node}",
        [
            *(ended if signed.withdrawn_at_s else [("custody ended", moment(signed.due_at_s))]),
            *(("destroyed", f"{item.kind} {item.name}") for item in made.destroyed),
            *(("left", f"{item.kind} {item.name}: {item.reason}") for item in made.left),
            *(("cannot recall", words) for words in made.beyond_recall),
        ],
    )


@guarded
def end_custody(
    content_id: WorkId,
    key: KeyFile,
    custodian: Annotated[
        list[str] | None,
        typer.Option(
            "--custodian",
            help="URL of a custodian to ask; repeat it. Default: all that the listing names.",
            show_default=False,
        ),
    ] = None,
    node: NodeUrl = LOCAL_NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Have custodians destroy the key and the sealed bytes of a work of yours.

    Each answers with a signed certificate. What trainers opened under their grants stays with them:
    `viz content keys` shows who got the key. Without --custodian the work's listing at --node says
    who is asked. Then list the work again with `viz content publish`, or it names nodes that no
    longer hold it.
    """
    from viz.chain.keys import load_key_file

    trusted = trusted_deployment(deployment, folder)
    account = load_key_file(key, password(password_file))
    done, errors = run(
        _end(content_id, account, trusted, custodian or [], node, yes=yes, quiet=as_json)
    )
    if not show([each.to_json() for each in done], as_json=as_json):
        for each in done:
            say_certificate(each)
    for url, error in errors[1:]:
        err.print(f"{url}: {error.detail}", markup=False, soft_wrap=True)
    if errors:
        raise errors[0][1]


async def _end(
    content_id: int,
    account: LocalAccount,
    trusted: Deployment,
    urls: Sequence[str],
    node: str,
    *,
    yes: bool,
    quiet: bool,
) -> tuple[list[DestructionCertificate], list[tuple[str, VizError]]]:
    """Ask each custodian; return the certificates, and the errors with the URLs."""
    from viz.creator.sealed import custodian_at
    from viz.creator.sealed import end_custody as end
    from viz.domain.units import ContentId
    from viz.protocol.listing import LISTING_PATH, SignedListing

    if not urls:
        path = LISTING_PATH.format(content_id=content_id)
        signed = await get_as(SignedListing.from_json, node, path)
        urls = [each.url for each in signed.listing.custodians]
    lines(
        f"These custodians will destroy the key and the sealed bytes of work {content_id}:",
        [("custodian", url) for url in urls],
        to=err if quiet else out,
    )
    agreed(
        "Destroy them there? Trainers who did not fetch the work yet no longer get it there.",
        yes=yes,
    )
    done, errors = [], []
    for url in urls:
        try:
            custodian = await custodian_at(url, trusted)
            done.append(await end(ContentId(content_id), custodian, trusted, bytes(account.key)))
        except VizError as error:
            errors.append((url, error))
    return done, errors
