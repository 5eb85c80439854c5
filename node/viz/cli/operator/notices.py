"""Run `viz content notice` for whoever complains, and `viz notice` for the operator who answers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
    table,
)
from viz.cli.http import LOCAL_NODE, NodeUrl, OperatedNode
from viz.cli.noticed import effect
from viz.cli.operator.running_node import OperatorClient
from viz.cli.own_chain import trusted_deployment
from viz.client.node_address import checked
from viz.domain.display import duration, moment
from viz.errors import InvalidRequest

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from viz.creator.notices import NoticeDraft
    from viz.domain.ports.chain import Deployment
    from viz.protocol.notices import NoticeView

app = typer.Typer(no_args_is_help=True, help="Read and answer the notices of third parties.")
_NO_EVIDENCE: Final = "0x" + "00" * 32
NoticeId = Annotated[int, typer.Argument(min=1, help="The notice's number at this node.")]


class ClaimedRight(StrEnum):
    """What a notice claims."""

    COPYRIGHT = "copyright"
    PERSONAL_DATA = "personal-data"
    OTHER = "other"


class NoticeAnswer(StrEnum):
    """The operator's answer to a notice."""

    UPHOLD = "uphold"
    REJECT = "reject"


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
    node: NodeUrl = LOCAL_NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell a node's operator, signed, that an adapter or a work violates a right.

    Everybody sees that there is a notice, its kind and its dates. Who you are and what you write is
    for the operator. What follows when is the node's published rule (docs/legal.md).
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
    kept = run(_send(draft, account, trusted, checked(node), yes=yes, quiet=as_json))
    if not show(kept.to_json(), as_json=as_json):
        say(f"received   notice {kept.notice_id} at {node}")
        say(f"effective  {effect(kept.to_json())}")


async def _send(
    draft: NoticeDraft,
    account: LocalAccount,
    trusted: Deployment,
    node: str,
    *,
    yes: bool,
    quiet: bool,
) -> NoticeView:
    from viz.clock import SystemClock
    from viz.creator.notices import desk_at, send_notice
    from viz.domain.notices import NAME_OF_KIND
    from viz.domain.units import hex_of

    desk = await desk_at(node, trusted)
    about = f"adapter {draft.adapter_id}" if draft.adapter_id else f"work {draft.content_id}"
    rows = [
        ("about", about),
        ("kind", NAME_OF_KIND[draft.kind]),
        ("statement", draft.statement),
        ("contact", draft.contact or "none"),
        ("evidence", hex_of(draft.evidence_hash) if any(draft.evidence_hash) else "none"),
        ("from", str(account.address)),
        ("to", f"{desk.node}  at {desk.url}"),
        ("answered within", _rule(desk.personal_data_s, desk.answer_s)),
        ("chain", str(trusted.chain_id)),
        ("registry", trusted.content_registry),
    ]
    lines("You sign, for the node's operator to read:", rows, to=err if quiet else out)
    agreed("Send the notice?", yes=yes)
    now_s = SystemClock().now_s()
    return await send_notice(draft, desk, trusted, bytes(account.key), now_s=now_s)


def _rule(personal_data_s: int, answer_s: int) -> str:
    return f"{duration(answer_s)}, or {duration(personal_data_s)} if about personal data"


def about(found: dict[str, Any]) -> str:
    """Return what a notice is about, in words."""
    if found["adapterId"]:
        return f"adapter {found['adapterId']}"
    return f"work {found['contentId']}"


@app.command("list")
@guarded
def list_notices(
    open_only: Annotated[
        bool, typer.Option("--open", help="Only those that are not answered.")
    ] = False,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the notices that this node received."""
    found = run(OperatorClient(node, folder).ask("GET", "/notices"), logs=False)["notices"]
    found = [each for each in found if not open_only or each["view"]["state"] == "open"]
    if show(found, as_json=as_json):
        return
    rows = [
        (
            each["view"]["noticeId"],
            about(each["view"]),
            each["view"]["kind"],
            each["notifier"],
            "an owner or you" if each["view"]["standing"] else "a third party",
            moment(each["view"]["receivedAt"]),
            effect(each["view"]),
        )
        for each in found
    ]
    columns = ("#notice", "about", "kind", "from", "who is", "received", "effective")
    table("Notices", columns, rows)


@app.command("show")
@guarded
def show_notice(
    notice_id: NoticeId,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a notice with all that its notifier wrote."""
    found = run(OperatorClient(node, folder).ask("GET", f"/notices/{notice_id}"), logs=False)
    if not show(found, as_json=as_json):
        _print_notice(found)


@app.command("answer")
@guarded
def answer_notice(
    notice_id: NoticeId,
    answer: Annotated[
        NoticeAnswer, typer.Argument(help="uphold stops sales, reject lets them go on.")
    ],
    reason: Annotated[str, typer.Option(help="Why: everybody reads it beside the notice.")],
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Uphold or reject a notice; a later answer replaces an earlier one.

    Upheld, it stops the sale of the adapter, or of all adapters of the work, until you reject it.
    Rejected, it has no effect.
    """
    body = {"answer": answer.value, "reason": reason}
    found = run(OperatorClient(node, folder).ask("POST", f"/notices/{notice_id}", body), logs=False)
    if not show(found, as_json=as_json):
        _print_notice(found)


def _print_notice(found: dict[str, Any]) -> None:
    seen = found["view"]
    answered = (
        f"{seen['state']}, {moment(seen['answeredAt'])}: {seen['reason']}"
        if seen["answeredAt"]
        else "not yet"
    )
    evidence = found["evidenceHash"]
    lines(
        f"Notice {seen['noticeId']}",
        [
            ("about", about(seen)),
            ("kind", seen["kind"]),
            ("from", found["notifier"]),
            ("who is", "the operator or an owner" if seen["standing"] else "a third party"),
            ("contact", found["contact"] or "none"),
            ("statement", found["statement"]),
            ("evidence", "none" if evidence == _NO_EVIDENCE else f"SHA-256 {evidence}"),
            ("received", moment(seen["receivedAt"])),
            ("answered", answered),
            ("effective", effect(seen)),
        ],
    )
