"""Run `viz content notice`: who complains tells one node, or all that sell the adapter."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    KeyFile,
    PasswordFile,
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
from viz.cli.http import LOCAL_NODE, NodeUrl
from viz.cli.noticed import effect
from viz.cli.own_chain import trusted_deployment
from viz.client.node_address import checked
from viz.domain.display import counted, duration
from viz.errors import InvalidRequest, VizError

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from viz.creator.notices import NoticeDesk, NoticeDraft
    from viz.domain.ports.chain import Deployment
    from viz.protocol.notices import NoticeView


class ClaimedRight(StrEnum):
    """What a notice claims."""

    COPYRIGHT = "copyright"
    PERSONAL_DATA = "personal-data"
    OTHER = "other"


@guarded
def notice(
    statement: Annotated[str, typer.Argument(help="What is wrong, for the node's operator.")],
    key: KeyFile,
    kind: Annotated[ClaimedRight, typer.Option(help="What the notice claims.")],
    adapter: Annotated[int, typer.Option(min=0, help="The adapter that it is about.")] = 0,
    work: Annotated[
        int, typer.Option(min=0, help="The work that it is about, with all adapters made of it.")
    ] = 0,
    contact: Annotated[str, typer.Option(help="How the operator reaches you.")] = "",
    evidence: Annotated[
        Path | None,
        typer.Option(help="A file that you keep as evidence: only its SHA-256 is sent."),
    ] = None,
    everywhere: Annotated[
        bool,
        typer.Option(
            "--everywhere",
            help="Also tell every other node that sells the adapter, by the node's market.",
        ),
    ] = False,
    private_addresses: Annotated[
        bool,
        typer.Option("--private-addresses", help="Allow nodes on this machine or its network."),
    ] = False,
    node: NodeUrl = LOCAL_NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell a node's operator, signed, that an adapter or a work violates a right.

    Everybody sees that there is a notice, its kind and its dates. Who you are and what you write is
    for the operator. What follows when is the node's published rule (docs/legal.md). A notice is
    signed for one node: with --everywhere each node gets one of its own, and decides by itself.
    """
    from viz.chain.keys import load_key_file
    from viz.creator.notices import NoticeDraft, evidence_hash
    from viz.domain.notices import KIND_NAMES
    from viz.domain.units import AdapterId, ContentId

    if bool(adapter) == bool(work):
        raise InvalidRequest("name what the notice is about: --adapter or --work, and not both")
    trusted = trusted_deployment(deployment, folder)
    account = load_key_file(key, password(password_file))
    draft = NoticeDraft(
        AdapterId(adapter),
        ContentId(work),
        KIND_NAMES[kind.value],
        statement,
        contact,
        evidence_hash(evidence),
    )
    asked = _send(
        draft,
        account,
        trusted,
        checked(node),
        others=everywhere,
        private_addresses=private_addresses,
        yes=yes,
        quiet=as_json,
    )
    told, missed = run(asked)
    if not everywhere:
        for _, failure in missed:
            raise failure
    _show(told, [(url, failure.detail) for url, failure in missed], everywhere, as_json=as_json)
    for _, failure in missed:
        raise type(failure)(
            f"{counted(len(missed), 'node was', 'nodes were')} not told: send the notice there "
            f"again ({failure.detail})"
        )


def _show(
    told: list[tuple[str, NoticeView]],
    missed: list[tuple[str, str]],
    everywhere: bool,
    *,
    as_json: bool,
) -> None:
    answer: dict[str, Any] = (
        {
            "notices": [{"url": url, "view": kept.to_json()} for url, kept in told],
            "notTold": [{"url": url, "why": why} for url, why in missed],
        }
        if everywhere
        else told[0][1].to_json()
    )
    if show(answer, as_json=as_json):
        return
    for url, kept in told:
        say(f"received   notice {kept.notice_id} at {url}")
        say(f"effective  {effect(kept.to_json())}")
    for url, why in missed:
        say(f"not told   {url}: {why}")


async def _send(
    draft: NoticeDraft,
    account: LocalAccount,
    trusted: Deployment,
    node: str,
    *,
    others: bool,
    private_addresses: bool,
    yes: bool,
    quiet: bool,
) -> tuple[list[tuple[str, NoticeView]], list[tuple[str, VizError]]]:
    from viz.clock import SystemClock
    from viz.creator.notice_desks import Desks
    from viz.creator.notices import desk_at
    from viz.domain.notices import NAME_OF_KIND
    from viz.domain.units import hex_of

    first = await desk_at(node, trusted)
    async with Desks(trusted, private_addresses=private_addresses) as desks:
        found = await desks.that_sell(draft, first) if others else [first]
        about = f"adapter {draft.adapter_id}" if draft.adapter_id else f"work {draft.content_id}"
        rows = [
            ("about", about),
            ("kind", NAME_OF_KIND[draft.kind]),
            ("statement", draft.statement),
            ("contact", draft.contact or "none"),
            ("evidence", hex_of(draft.evidence_hash) if any(draft.evidence_hash) else "none"),
            ("from", str(account.address)),
            *(row for desk in found for row in _addressed(desk)),
            ("chain", str(trusted.chain_id)),
            ("registry", trusted.content_registry),
        ]
        whose = "each node's operator" if len(found) > 1 else "the node's operator"
        lines(f"You sign, for {whose} to read:", rows, to=err if quiet else out)
        agreed("Send the notice?", yes=yes)
        told, missed = [], list(desks.missed)
        for desk in found:
            now_s = SystemClock().now_s()
            try:
                kept = await desks.send(draft, desk, bytes(account.key), now_s=now_s)
                told.append((desk.url, kept))
            except VizError as error:
                missed.append((desk.url, error))
        return told, missed


def _addressed(desk: NoticeDesk) -> list[tuple[str, str]]:
    within = (
        f"{duration(desk.answer_s)}, or {duration(desk.personal_data_s)} if about personal data"
    )
    return [("to", f"{desk.node}  at {desk.url}"), ("answered within", within)]
