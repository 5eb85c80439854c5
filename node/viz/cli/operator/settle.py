"""Run `viz settle`: claim vouchers, pay creators, collect. A failed step stops no other step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, Final, TypeVar

import typer

from viz.cli.console import AsJson, DataDir, err, guarded, money, run, show, table
from viz.cli.http import OperatedNode
from viz.cli.operator.running_node import OperatorClient
from viz.errors import VizError

T = TypeVar("T")
TOLD_EVERY_S: Final = 10


@guarded
def settle(
    distribute: Annotated[
        bool,
        typer.Option("--distribute/--no-distribute", help="Also pay the creators their royalties."),
    ] = True,
    collect: Annotated[
        bool, typer.Option("--collect", help="Also move the node's earnings to its wallet.")
    ] = False,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Claim all signed vouchers in one batch and pay the creators; with --collect also collect.

    The command sends the claim whatever its gas costs, and pays the creators of every adapter that
    this node has ever sold. If a step fails, it shows the error and continues with the next step;
    the exit code is that of the first error.
    """
    found, errors = run(_settle(OperatorClient(node, folder), distribute, collect), logs=False)
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
    operator: OperatorClient, distribute: bool, collect: bool
) -> tuple[dict[str, Any], list[VizError]]:
    """Return the results and failures of the steps, and the errors in their order."""
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
        found_royalties = await _told("royalties", operator.ask("GET", "/royalties"))
        for royalty in found_royalties["royalties"]:
            number = royalty["adapterId"]
            paid = await done(f"creators of {number}", "/distribute", {"adapterId": number})
            if paid is not None:
                found["distributed"][number] = paid
    if collect and int(collectable := (await operator.ask("GET", "/status"))["collectable"]):
        found["collectedUnits"] = collectable
        found["collected"] = await done("collecting", "/collect")
    return found, errors


async def _told(what: str, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``; every ``TOLD_EVERY_S`` say on standard error that it runs."""
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
