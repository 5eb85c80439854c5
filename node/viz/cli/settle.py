"""`viz settle`: all that is owed, to everybody, in one command that no single error stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, Final, TypeVar

import typer

from viz.cli.console import AsJson, DataDir, err, guarded, money, run, show, table
from viz.cli.http import NodeUrl
from viz.cli.operator import Operator
from viz.errors import VizError

T = TypeVar("T")
TOLD_EVERY_S: Final = 10


@guarded
def settle(
    distribute: Annotated[
        bool, typer.Option("--distribute/--no-distribute", help="Also pay the creators.")
    ] = True,
    collect: Annotated[
        bool, typer.Option("--collect", help="Also collect the node's part.")
    ] = False,
    node: NodeUrl = "http://127.0.0.1:8402",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Claim every signed voucher in one batch, pay creators, and collect.

    Whatever its gas costs. Creators are paid of every adapter that was ever sold here and owes them
    something. An error is told with what it kept from being paid, and the rest goes on; the first
    one's exit code is the command's.
    """
    found, errors = run(_settle(Operator(node, folder), distribute, collect), logs=False)
    if not show(found, as_json=as_json):
        _tell(found)
    if errors:
        raise errors[0]


def _tell(found: dict[str, Any]) -> None:
    rows: list[tuple[str, object]] = []
    if claim := found.get("claim"):
        rows += [
            ("vouchers claimed", claim["settled"]),
            ("dropped", claim["dropped"]),
            ("still waiting", claim["waiting"]),
            ("claimed", money(claim["claimed_units"], found)),
        ]
        rows += [("gas of the claim", sent["gas_used"]) for sent in claim["transactions"]]
    for adapter_id, sent in found["distributed"].items():
        paid = next((e["args"]["paid"] for e in sent["events"] if e["name"] == "Distributed"), 0)
        rows.append((f"creators of adapter {adapter_id}", money(paid, found)))
    if found.get("collected"):
        rows.append(("collected by the node", money(found["collectedUnits"], found)))
    rows += [(f"not done: {what}", why) for what, why in found["failed"].items()]
    table("Settlement", ("what", "#value"), rows)


async def _settle(
    operator: Operator, distribute: bool, collect: bool
) -> tuple[dict[str, Any], list[VizError]]:
    """Return what was done and what was not, and the errors behind the latter in order."""
    standing = await operator.ask("GET", "/status")
    found: dict[str, Any] = {
        "tokenDecimals": standing["tokenDecimals"],
        "tokenSymbol": standing.get("tokenSymbol", ""),
        "distributed": {},
        "failed": {},
    }
    errors: list[VizError] = []

    async def done(what: str, path: str, body: object = None) -> Any:
        try:
            return await _told(what, operator.ask("POST", path, body))
        except VizError as error:
            found["failed"][what] = error.detail
            errors.append(error)
            return None

    if (claimed := await done("the claim", "/settle")) is not None:
        found["claim"] = claimed
    if distribute:
        owing = await _told("what creators are owed", operator.ask("GET", "/royalties"))
        for owed in owing["royalties"]:
            number = owed["adapterId"]
            paid = await done(f"creators of {number}", "/distribute", {"adapterId": number})
            if paid is not None:
                found["distributed"][number] = paid
    if collect and int(owed := (await operator.ask("GET", "/status"))["owed"]):
        found["collectedUnits"] = owed
        found["collected"] = await done("collecting", "/collect")
    return found, errors


async def _told(what: str, work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` does; name it on standard error, and every few seconds that it runs."""
    err.print(f"{what} ...")
    task = asyncio.ensure_future(work)
    waited_s = 0
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=TOLD_EVERY_S)
            if done:
                return task.result()
            waited_s += TOLD_EVERY_S
            err.print(f"{what}: waiting for the chain, {waited_s} s so far")
    finally:
        task.cancel()
