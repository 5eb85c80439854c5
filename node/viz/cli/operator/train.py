"""Run `viz train`: train an adapter on licensed works, and put it on offer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from viz.cli.console import AsJson, DataDir, guarded, money, run, show, table
from viz.cli.http import OperatedNode
from viz.cli.operator.running_node import (
    CompletionPriceOption,
    DescriptionOption,
    NameOption,
    OperatorClient,
    PromptPriceOption,
    PublishAnywayOption,
    RoyaltyOption,
    TrainerPartOption,
    named,
    priced,
)
from viz.cli.operator.training import follow, say_card
from viz.cli.operator.works_notices import say_notices
from viz.domain.strict_json import MemberTwice, load_json
from viz.errors import InvalidRequest
from viz.protocol.problems import error_of

_ID_DIGITS: Final = 15
_SHOWN_PARTS: Final = 3
# Stands for the HTTP status of a refusal that came in a result.
_REFUSED: Final = 422


@guarded
def train(
    works: Annotated[
        list[str],
        typer.Argument(
            help="Ids of licensed works, or work files, or folders with a terms.toml.",
            metavar="WORK...",
        ),
    ],
    name: NameOption = "",
    description: DescriptionOption = "",
    royalty_bps: RoyaltyOption = 3_000,
    trainer_bps: TrainerPartOption = 1_000,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A training setting, as NAME=VALUE.")
    ] = None,
    base: Annotated[
        str,
        typer.Option(help="Train on this base model, by name or digest, not on the node's first."),
    ] = "",
    publish: Annotated[
        bool,
        typer.Option("--publish/--no-publish", help="Register the adapter and put it on offer."),
    ] = True,
    publish_anyway: PublishAnywayOption = False,
    prompt_price: PromptPriceOption = "",
    completion_price: CompletionPriceOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show how long the run would take, and its fees.")
    ] = False,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter on licensed works, store it, register it, and put it on offer."""
    given = named(name, description)
    request: dict[str, Any] = {
        "works": [_work(each) for each in works],
        "settings": dict(_setting(each) for each in setting or ()),
        **given,
        **({"base": base} if base else {}),
    }
    operator = OperatorClient(node, folder)
    run(say_notices(operator, _content_ids(request["works"])), logs=False)
    prices = {"promptPrice": prompt_price, "completionPrice": completion_price}
    wanted = {
        "royaltyBps": royalty_bps,
        "trainerBps": trainer_bps,
        "anyway": publish_anyway,
        **given,
        **run(priced(operator, prices), logs=False),
    }
    if dry_run:
        told = request | ({"publish": wanted} if publish else {})
        plan, token = run(_plan(operator, told), logs=False)
        if not show(plan, as_json=as_json):
            _say_plan(plan, token)
        return
    result = train_and_publish(operator, request, wanted if publish else None, quiet=as_json)
    if not show(result, as_json=as_json):
        say_card(result)


def train_and_publish(
    operator: OperatorClient,
    request: dict[str, Any],
    publication: dict[str, Any] | None,
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Train to the end; with ``publication`` the node registers and offers the adapter then.

    The node keeps the wish, so it does so also where this command has ended. Raises the error for
    which the adapter is not sold, after the result of the run was printed.
    """
    wanted = request if publication is None else request | {"publish": publication}
    started = run(operator.ask("POST", "/trainings", wanted), logs=False)
    result = follow(operator, started["id"], quiet=quiet)
    made = result.get("publication") or {}
    if made.get("state") == "refused":
        if not quiet:
            say_card(result)
        raise error_of({"code": made["code"], "detail": made["detail"]}, _REFUSED)
    return result


def _work(named: str) -> dict[str, Any]:
    """Return a work of the request: by its id (the node fetches it if necessary) or its file.

    A number is an id. Write ./NUMBER for a file whose name is a number.
    """
    if named.isascii() and named.isdecimal() and len(named) <= _ID_DIGITS:
        return {"contentId": int(named)}
    return {"path": str(work_file(Path(named)).absolute())}


def _content_ids(works: list[dict[str, Any]]) -> set[int]:
    """Return the ids of the works of a request, as far as it or the records beside them say."""
    from viz.services.work_records import load_record

    records = [load_record(Path(work["path"])) for work in works if "path" in work]
    named = [each.content_id for each in records if each and each.content_id is not None]
    return {int(each) for each in (*named, *(w["contentId"] for w in works if "contentId" in w))}


def work_file(work: Path) -> Path:
    """Return the work's file: ``work`` itself, or the one that its folder's terms.toml names."""
    if not work.is_dir():
        return work
    from viz.protocol.registration import words_of
    from viz.services.work_records import terms_text

    return work / words_of(terms_text(work / "terms.toml")).file


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"{text!r} is not a setting: write it as NAME=VALUE")
    try:
        return name, load_json(value)
    except MemberTwice as error:
        raise InvalidRequest(f"{text[:80]!r} is not a setting: {error}") from error
    except ValueError:
        return name, value


async def _plan(
    operator: OperatorClient, request: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the plan, and the node's status, which names the token of the fees."""
    plan = await operator.ask("POST", "/trainings", request | {"dryRun": True})
    return plan, await operator.ask("GET", "/status")


def _memory_rows(memory: dict[str, Any] | None) -> list[tuple[str, object]]:
    """Return MiB on the host and on the device, and their largest parts."""
    rows: list[tuple[str, object]] = []
    for place, called in (("host", "MiB of memory, about"), ("device", "MiB on the device, about")):
        parts = (memory or {}).get(place) or {}
        if not parts:
            continue
        rows.append((called, f"{sum(parts.values()) >> 20:,}"))
        largest = sorted(parts.items(), key=lambda part: -part[1])[:_SHOWN_PARTS]
        rows += [(f"  of it {name}", f"{size >> 20:,}") for name, size in largest]
    return rows


def _say_plan(plan: dict[str, Any], token: dict[str, Any]) -> None:
    found, settings = plan["estimate"], plan["settings"]
    rows: list[tuple[str, object]] = [
        ("rows to learn", found["rows"]),
        ("wordings held out", found["held_out_rows"]),
        ("rows probed for repetition", min(found["rows"], settings["probes"])),
        ("passages probed, at most", settings["probes"]),
        ("steps", found["steps"]),
        ("tokens a step, about", found["tokens_a_step"]),
        ("trained on", settings["device"]),
        ("minutes, about", f"{found['seconds'] / 60:.1f}"),
        *_memory_rows(plan.get("memory")),
        *((f"fee of work {work}", money(fee, token)) for work, fee in plan["fees_units"].items()),
    ]
    table("Training would take", ("what", "#value"), rows)
