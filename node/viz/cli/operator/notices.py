"""Run `viz notice`: the operator reads and answers the notices of third parties."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    guarded,
    lines,
    run,
    show,
    table,
)
from viz.cli.http import OperatedNode
from viz.cli.noticed import effect
from viz.cli.operator.running_node import OperatorClient
from viz.domain.display import moment

if TYPE_CHECKING:
    pass

app = typer.Typer(no_args_is_help=True, help="Read and answer the notices of third parties.")
_NO_EVIDENCE: Final = "0x" + "00" * 32
NoticeId = Annotated[int, typer.Argument(min=1, help="The notice's number at this node.")]


class NoticeAnswer(StrEnum):
    """The operator's answer to a notice."""

    UPHOLD = "uphold"
    REJECT = "reject"


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
