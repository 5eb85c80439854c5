"""Run `viz training`: list, show, follow and cancel the node's training runs."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from viz.cli.console import AsJson, DataDir, err, guarded, plain, run, say, show, table
from viz.cli.http import OperatedNode
from viz.cli.operator.running_node import OperatorClient
from viz.cli.operator.training_progress import NOT_MEASURED, of, says, stands
from viz.domain.display import moment, percent
from viz.errors import NodeUnreachable, TrainingError
from viz.protocol.answers import AnswerObject

app = typer.Typer(
    no_args_is_help=True, help="List, show, follow and cancel the node's training runs."
)
RunId = Annotated[str, typer.Argument(help="A run's id, as `viz training list` shows it.")]
# The interval of progress lines if there is no terminal for a bar.
_EVERY_S: Final = 5.0
# The interval between calls to a node that does not answer.
_LOOK_AGAIN_S: Final = 3.0


@app.command("list")
@guarded
def list_runs(node: OperatedNode = "", folder: DataDir = None, as_json: AsJson = False) -> None:
    """List the runs, the newest last."""
    found = run(OperatorClient(node, folder).ask("GET", "/trainings"), logs=False)
    if not show(found, as_json=as_json):
        rows = [
            (each["id"], each["request"].get("name", ""), each["state"], stands(each),
             moment(each["createdAt"]))
            for each in found["trainings"]
        ]  # fmt: skip
        table("Trainings", ("id", "name", "state", "stands at", "asked for"), rows)


@app.command("show")
@guarded
def show_run(
    training: RunId,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: its state, or its report card if it is done."""
    found = run(OperatorClient(node, folder).ask("GET", f"/trainings/{training}"), logs=False)
    if show(found, as_json=as_json):
        return
    if found["state"] == "done":
        say_card({"id": found["id"], **found["result"]})
    else:
        rows = [("state", found["state"]), ("stands at", stands(found))]
        if found["error"]:
            rows.append(("error", found["error"]))
        table(f"Training {found['id']}", ("what", "value"), rows)


@app.command("watch")
@guarded
def watch_run(
    training: RunId,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Follow a run until it ends. Ctrl-C ends this command, not the run."""
    operator = OperatorClient(node, folder)
    run(
        operator.ask("GET", f"/trainings/{training}"), logs=False
    )  # fails at once without a node or run
    result = follow(operator, training, quiet=as_json)
    if not show(result, as_json=as_json):
        say_card(result)
        if not (result.get("publication") or {}).get("adapter_id"):
            say(f"Sell it: viz adapter register {training}", style="dim")


@app.command("cancel")
@guarded
def cancel_run(
    training: RunId,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a run after its current step. It cannot be resumed.

    A finished run is not changed; if it waits for its registration, it is not published any more.
    """
    found = run(OperatorClient(node, folder).ask("DELETE", f"/trainings/{training}"), logs=False)
    if not show(found, as_json=as_json):
        say(f"training {training} is {found['state']}")


def follow(operator: OperatorClient, training: str, *, quiet: bool) -> dict[str, Any]:
    """Show a run's progress until it ends, and return its result.

    If the node stops, wait for it: it resumes the run at its next start. Raises TrainingError if
    the run failed or was cancelled.
    """
    end: dict[str, Any] = {}
    try:
        while not end:
            try:
                end = run(_follow(operator, training, quiet=quiet), logs=False)
            except NodeUnreachable:
                if not quiet:
                    err.print("the node does not answer; waiting for it", markup=False)
            if not end:
                time.sleep(_LOOK_AGAIN_S)
    except KeyboardInterrupt:
        err.print(
            "The run goes on, and the node publishes it if that was asked. Follow it: "
            f"viz training watch {training}"
        )
        raise
    if end["state"] != "done":
        raise TrainingError(f"training {training} {end['state']}: {end.get('error')}")
    return {"id": training, **end["result"]}


async def _follow(operator: OperatorClient, training: str, *, quiet: bool) -> dict[str, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}", markup=False),
    )
    drawn = err.is_terminal and not quiet
    end: dict[str, Any] = {}
    said, told_at = "waiting", time.monotonic()
    with Progress(*columns, console=err, disable=not drawn) as progress:
        bar = progress.add_task("training", total=None, said=said)
        async for event in operator.events(f"/trainings/{training}/events"):
            if event.get("event") == "end":
                end = event
            said = plain(says(event) or said)
            progress.update(
                bar,
                total=event.get("steps", progress.tasks[0].total),
                completed=event.get("step", progress.tasks[0].completed),
                said=said,
            )
            late = time.monotonic() - told_at >= _EVERY_S
            if not drawn and not quiet and (late or event.get("event") in ("started", "end")):
                told_at = time.monotonic()
                err.print(f"training {training}: {said}", markup=False, soft_wrap=True)
    return end


def say_card(result: dict[str, Any]) -> None:
    """Print the result of a run: report card, weights digest, CID, and whether it is on offer."""
    result = AnswerObject(result)
    metrics = result["metrics"]
    recall, general = metrics.get("recall"), metrics.get("general")
    repeated = metrics["memorisation"]
    rows: list[tuple[str, object]] = []
    if recall and general:  # old runs have no report card
        rows += [
            ("right answers in unseen wordings", of(recall["adapter"], recall["asked"])),
            ("the same of the base model", of(recall["base"], recall["asked"])),
            *_of_creators(metrics.get("committed")),
            ("general questions not forgotten", of(general["kept"], general["base"])),
        ]
        if "adapter" in general:  # runs of earlier recipes did not count them
            rows.append(("general questions right", of(general["adapter"], general["asked"])))
    rows += [
        ("longest verbatim run, tokens", _or_not_measured(repeated["adapter"]["longest_tokens"])),
        ("the same of the base model", _or_not_measured(repeated["base"]["longest_tokens"])),
        *(
            (f"{kind}: {example['question']}", example["answer"])
            for kind in ("right", "wrong")
            for example in (recall or {}).get("examples", {}).get(kind, ())
        ),
        ("seconds", round(metrics["seconds"])),
        ("shares", ", ".join(f"work {work}: {percent(bps)}" for work, bps in result["shares"])),
        ("weights digest", result["weightsDigest"]),
    ]
    rows += _of_publication(result.get("publication") or {})
    table(f"Training {result['id']}", ("what", "value"), rows)


def _of_creators(committed: dict[str, int] | None) -> list[tuple[str, object]]:
    if not committed:
        return []
    said = of(committed["adapter"], committed["asked"])
    return [
        ("right answers to the creators' questions", said),
        ("the same of the base model", of(committed["base"], committed["asked"])),
    ]


def _of_publication(made: dict[str, Any]) -> list[tuple[str, object]]:
    """Return what came of publishing a run: its adapter, and on offer as what, or why not."""
    rows: list[tuple[str, object]] = []
    if "adapter_id" in made:
        rows += [("CID", made["cid"]), ("adapter", made["adapter_id"])]
    if offer := made.get("offer"):
        rows.append(("model name", offer["model"]))
    elif made.get("state") == "refused":
        rows.append(("not on sale", made["detail"]))
    elif made:
        rows.append(("not on offer yet", made.get("detail", "the node is about to offer it")))
    return rows


def _or_not_measured(value: int | None) -> object:
    return NOT_MEASURED if value is None else value
