"""Run `viz content license`: acquire grants for the node, and fetch the works."""

from __future__ import annotations

from typing import Annotated, Any, Final, NoReturn

import typer

from viz.cli.console import (
    MOST_WORKS,
    AsJson,
    DataDir,
    err,
    exit_code,
    guarded,
    run,
    say,
    show,
    table,
)
from viz.cli.http import OperatedNode
from viz.cli.operator.running_node import OperatorClient
from viz.cli.operator.works_notices import say_notices
from viz.domain.display import expiry
from viz.domain.units import parse_units
from viz.errors import ListingUnknown, VizError
from viz.protocol.answers import AnswerObject

_NOWHERE: Final[dict[str, Any]] = {"path": None, "title": "", "detail": "", "error": None}


@guarded
def license_work(
    content_ids: Annotated[
        list[int], typer.Argument(help="Works to acquire a grant to.", min=1, max=MOST_WORKS)
    ],
    max_fee: Annotated[str, typer.Option(help="Pay at most this much for each work.")] = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Only the grant: the owner gives you the work's file.")
    ] = False,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Acquire grants to works for this node, pay each creator's training fee, and fetch the works.

    Notices on the works that this node has are printed first. A licensed work is fetched from the
    custodians in its listing, opened, checked against the chain, and stored in the node's folder,
    readable by the operator only. A work that no node lists is refused before anything is paid. If
    a work cannot be fetched afterwards, the grant is yours all the same: the command says what to
    do, and ends with the exit code of the reason. With --offline nothing is fetched.
    """
    operator = OperatorClient(node, folder)
    run(say_notices(operator, content_ids), logs=False)
    grants, stopped = run(_license(operator, content_ids, max_fee, fetches=not offline), logs=False)
    missing = [grant for grant in grants if grant["error"] is not None]
    told = [{k: v for k, v in grant.items() if k != "error"} for grant in grants]
    if grants and not show(told, as_json=as_json):
        _say_grants(grants)
    if stopped is not None:
        raise stopped
    if missing:
        _end_without(missing)


def _say_grants(grants: list[dict[str, Any]]) -> None:
    rows = [
        (
            grant["content_id"],
            expiry(int(grant["expires_at"])),
            "yes" if grant["live"] else "no",
            "yes" if grant["path"] else "no",
        )
        for grant in grants
    ]
    table("Grants", ("#work", "expires", "live", "here"), rows)
    for grant in grants:
        if grant["path"]:
            say(f"work {grant['content_id']}  {grant['title']}: train it with its id")


def _end_without(missing: list[dict[str, Any]]) -> NoReturn:
    """Say of each work that is licensed and not here what goes on; exit with the last reason."""
    for grant in missing:
        content_id = grant["content_id"]
        err.print(
            f"work {content_id} is licensed, and its file is not here: {grant['detail']}. The "
            f"grant stays: `viz content license {content_id}` fetches the file later and does not "
            "pay again. If the owner gives you file and record, name their folder: `viz train "
            "FOLDER`",
            markup=False,
            soft_wrap=True,
        )
    raise typer.Exit(exit_code(missing[-1]["error"]))


async def _license(
    operator: OperatorClient, content_ids: list[int], max_fee: str, *, fetches: bool
) -> tuple[list[dict[str, Any]], VizError | None]:
    """Return the grants that were acquired, and the error that ended it before the last one."""
    bound: dict[str, Any] = {"listed": fetches}
    if max_fee:
        decimals = (await operator.ask("GET", "/status"))["tokenDecimals"]
        bound["maxFee"] = str(parse_units(max_fee, decimals))
    found: list[dict[str, Any]] = []
    for content_id in content_ids:
        try:
            grant = await operator.ask("POST", "/grants", {"contentId": content_id} | bound)
        except ListingUnknown as error:
            return found, ListingUnknown(
                f"{error.detail}. Nothing was paid for work {content_id}: --offline acquires only "
                "the grant",
                **error.extensions,
            )
        except VizError as error:
            return found, error
        place = await _fetched(operator, content_id) if fetches else dict(_NOWHERE)
        found.append(AnswerObject(grant | place))
    return found, None


async def _fetched(operator: OperatorClient, content_id: int) -> dict[str, Any]:
    """Return where a licensed work is, or why it could not be fetched. The grant is paid for."""
    try:
        work = await operator.ask("POST", "/works", {"contentId": content_id})
    except VizError as error:
        return {**_NOWHERE, "detail": error.detail, "error": error}
    return {**_NOWHERE, "path": work["path"], "title": work["title"]}
