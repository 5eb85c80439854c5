"""Show who got the keys of a sealed work from its custodians, and end their custody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

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
    data_dir,
    err,
    guarded,
    lines,
    out,
    password,
    plain,
    run,
    say,
    show,
    table,
)
from viz.cli.creator.certificates import say_certificate
from viz.cli.http import LOCAL_NODE, NodeUrl, get_as
from viz.cli.own_chain import trusted_deployment
from viz.client.node_address import origin_of
from viz.domain.display import moment
from viz.errors import KeyUnknown, ListingUnknown, VizError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eth_account.signers.local import LocalAccount

    from viz.creator.known_custodians import KnownCustodians
    from viz.domain.ports.chain import Deployment
    from viz.protocol.destruction import DestructionCertificate

_KEEPS_ONE: Final = (
    "A custodian has the key itself, and can open the work without an entry here. To train on it, "
    "it needs a grant as everybody does: `viz content statement` shows who paid for one."
)


@guarded
def keys(
    content_id: WorkId,
    node: NodeUrl = LOCAL_NODE,
    as_json: AsJson = False,
) -> None:
    """Show who got the key of a sealed work from a custodian, and when (time and block)."""
    from viz.protocol.custody import HANDED_PATH, HandedKeys

    path = HANDED_PATH.format(kind="works", item_id=content_id)
    found = run(get_as(HandedKeys.from_json, node, path), logs=False)
    if not show(found.to_json(), as_json=as_json):
        rows = [(each.requester, moment(each.handed_at), each.block) for each in found.handed]
        if not rows:
            say(run(_none_handed(content_id, node), logs=False))
            return
        table(f"Keys of work {content_id}, from {node}", ("handed to", "when", "#block"), rows)
        say(_KEEPS_ONE)


async def _none_handed(content_id: int, node: str) -> str:
    """Say that a node handed out no key of a work, and who may have: its listing names them."""
    from viz.protocol.listing import LISTING_PATH, SignedListing

    said = f"{node} handed out no key of work {content_id}"
    try:
        path = LISTING_PATH.format(content_id=content_id)
        signed = await get_as(SignedListing.from_json, node, path)
    except ListingUnknown:
        return (
            f"{said}, and keeps no listing of it: check the id, or name a custodian of the work "
            "with --node"
        )
    urls = ", ".join(each.url for each in signed.listing.custodians)
    return f"{said}. Its listing names as custodians: {urls or 'none'}. {_KEEPS_ONE}"


@guarded
def end_custody(
    content_id: WorkId,
    key: KeyFile,
    custodian: Annotated[
        list[str] | None,
        typer.Option(
            "--custodian",
            help="URL of a custodian to ask; repeat it. Default: all that the listing names, and "
            "all that got the key from this data folder.",
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
    `viz content keys` shows who got the key. Without --custodian the work's listing at --node and
    the data folder say who is asked. Then list the work again with `viz content publish`, or it
    names nodes that no longer hold it.
    """
    from viz.chain.keys import load_key_file
    from viz.creator.known_custodians import KnownCustodians
    from viz.domain.units import ContentId

    trusted = trusted_deployment(deployment, folder)
    account = load_key_file(key, password(password_file))
    known = KnownCustodians(data_dir(folder), trusted, ContentId(content_id))
    urls = [origin_of(each) for each in custodian or []]
    done, errors = run(
        _end(known, content_id, account, trusted, urls, node, yes=yes, quiet=as_json)
    )
    if not show([each.to_json() for each in done], as_json=as_json):
        for each in done:
            say_certificate(each, each.certificate.node)
    for url, error in errors[1:]:
        err.print(plain(f"{url}: {error.detail}"), markup=False, soft_wrap=True)
    if errors:
        raise errors[0][1]


async def _end(
    known: KnownCustodians,
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
        holders = {each.node: each.url for each in known.all()}
        try:
            signed = await get_as(SignedListing.from_json, node, path)
            holders |= {each.node: each.url for each in signed.listing.custodians}
        except ListingUnknown:
            if not holders:
                raise
        urls = list(holders.values())
    urls = list(dict.fromkeys(urls))
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
            try:
                made = await end(ContentId(content_id), custodian, trusted, bytes(account.key))
                done.append(made)
            except KeyUnknown:  # its answer that it never held the work
                known.drop(custodian.node)
                raise
            known.drop(custodian.node)
        except VizError as error:
            errors.append((url, error))
    return done, errors
