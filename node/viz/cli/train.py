"""`viz train`: from licensed works to an adapter on offer, with its progress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from viz.cli.console import AsJson, DataDir, err, guarded, money, percent, run, show, table
from viz.cli.http import NodeUrl
from viz.cli.operator import Operator, Royalty, TrainerPart
from viz.domain.strict_json import load_json
from viz.errors import InvalidRequest, NodeUnreachable, TrainingError

_NOT_MEASURED = "not measured"


@guarded
def train(
    works: Annotated[list[Path], typer.Argument(help="Work files, or folders of works.")],
    name: Annotated[str, typer.Option(help="What to sell the adapter as.")] = "",
    royalty_bps: Royalty = 3_000,
    trainer_bps: TrainerPart = 1_000,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A training setting, as NAME=VALUE.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish/--no-publish", help="Register and offer the adapter.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it takes.")] = False,
    node: NodeUrl = "http://127.0.0.1:8402",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter on licensed works, store it, register it, and put it on offer."""
    request: dict[str, Any] = {
        "works": [{"path": str(work_file(work).absolute())} for work in works],
        "settings": dict(_setting(each) for each in setting or ()),
    }
    if name:
        request["name"] = name
    operator = Operator(node, folder)
    if dry_run:
        plan, token = run(_plan(operator, request), logs=False)
        if not show(plan, as_json=as_json):
            _say_plan(plan, token)
        return
    result = run(_train(operator, request, quiet=as_json), logs=False)
    if publish:
        result["publication"] = run(
            operator.ask(
                "POST",
                "/publications",
                {
                    "trainingId": result["id"],
                    "royaltyBps": royalty_bps,
                    "trainerBps": trainer_bps,
                    **({"name": name} if name else {}),
                },
            ),
            logs=False,
        )
    if not show(result, as_json=as_json):
        _say_trained(result)


def work_file(work: Path) -> Path:
    """Return the file of a work that is named by its folder's terms.toml, or by itself."""
    if not work.is_dir():
        return work
    from viz.services.market.work_records import read_description

    return work / read_description(work / "terms.toml", token_decimals=18).file


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"{text!r} is not a setting: write it as NAME=VALUE")
    try:
        return name, load_json(value)
    except ValueError:
        return name, value


async def _plan(
    operator: Operator, request: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the plan, and an answer that tells the token its fees are paid in."""
    plan = await operator.ask("POST", "/trainings", request | {"dryRun": True})
    return plan, await operator.ask("GET", "/status")


def _say_plan(plan: dict[str, Any], token: dict[str, Any]) -> None:
    found, settings = plan["estimate"], plan["settings"]
    rows: list[tuple[str, object]] = [
        ("rows to learn", found["rows"]),
        ("wordings held out", found["held_out_rows"]),
        ("rows probed for repetition", min(found["rows"], settings["probes"])),
        ("passages probed, at most", settings["probes"]),
        ("steps", found["steps"]),
        ("tokens a step, about", found["tokens_a_step"]),
        ("minutes, about", f"{found['seconds'] / 60:.1f}"),
        *((f"fee of work {work}", money(fee, token)) for work, fee in plan["fees_units"].items()),
    ]
    table("Training would take", ("what", "#value"), rows)


async def _train(operator: Operator, request: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    started = await operator.ask("POST", "/trainings", request)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
    )
    end: dict[str, Any] = {}
    with Progress(*columns, console=err, disable=quiet) as progress:
        bar = progress.add_task("training", total=None, said="waiting")
        async for event in operator.events(f"/trainings/{started['id']}/events"):
            kind = event.get("event")
            if kind == "started":
                progress.update(bar, total=event["steps"], said=f"{event['rows']} rows")
            elif kind == "step":
                said = f"loss {event['loss']:.3f}"
                progress.update(bar, completed=event["step"], said=said)
            elif kind == "measuring":
                progress.update(bar, said=f"measuring {event['what']}")
            elif kind == "end":
                end = event
                progress.update(bar, said=event["state"])
    if not end:
        raise NodeUnreachable(
            f"the node tells no more of training {started['id']}: see `viz status`, and the node's "
            "log; what was interrupted goes on when the node starts again"
        )
    if end.get("state") != "done":
        raise TrainingError(f"training {started['id']} {end.get('state')}: {end.get('error')}")
    return {"id": started["id"], **end["result"]}


def _of(right: int, asked: int) -> str:
    return f"{right} of {asked}" if asked else _NOT_MEASURED


def _or_not_measured(value: int | None) -> object:
    return _NOT_MEASURED if value is None else value


def _say_trained(result: dict[str, Any]) -> None:
    metrics = result["metrics"]
    recall, repeated = metrics["recall"], metrics["memorisation"]
    asked = recall["asked"]
    rows: list[tuple[str, object]] = [
        ("right answers in unseen wordings", _of(recall["adapter"], asked)),
        ("the same of the base model", _of(recall["base"], asked)),
        ("longest verbatim run, tokens", _or_not_measured(repeated["adapter"]["longest_tokens"])),
        ("the same of the base model", _or_not_measured(repeated["base"]["longest_tokens"])),
        ("seconds", round(metrics["seconds"])),
        ("shares", ", ".join(f"work {work}: {percent(bps)}" for work, bps in result["shares"])),
        ("weights digest", result["weightsDigest"]),
    ]
    if publication := result.get("publication"):
        rows += [
            ("CID", publication["cid"]),
            ("adapter", publication["adapter_id"]),
        ]
        if offer := publication["offer"]:
            rows.append(("model name", offer["model"]))
        else:
            rows.append(("on offer", publication["detail"]))
    table(f"Training {result['id']}", ("what", "value"), rows)
