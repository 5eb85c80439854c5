"""The operator's commands: they ask the running node, which alone uses the operator's key."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final

import aiohttp
import typer

from viz.cli.console import AsJson, DataDir, data_dir, err, guarded, out, run, show, table
from viz.cli.http import NodeUrl, ask, refusal, unreachable
from viz.domain.units import format_units, parse_units
from viz.errors import ConfigError, InvalidRequest, TrainingError

BASE: Final = "/operator/v1"
_LONG_S: Final = 900

adapter_app = typer.Typer(no_args_is_help=True, help="The adapters that this node serves.")

Royalty = Annotated[int, typer.Option(help="The contents' part of gross revenue, in bps.")]
TrainerPart = Annotated[int, typer.Option(help="The trainer's part of gross revenue, in bps.")]
SharesOption = Annotated[
    list[str] | None,
    typer.Option("--share", help="CONTENT:BPS, once a work; else by the works' sizes."),
]


class Operator:
    """The running node, as its operator reaches it."""

    def __init__(self, node: str, folder: Path | None) -> None:
        self._node = node
        file = data_dir(folder) / "operator.token"
        try:
            self._token = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be read ({error.strerror}): name the node's folder with --data-dir"
            ) from error

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer of an operator's call; raises what ``viz.cli.http.ask`` does."""
        return await ask(
            method, self._node, BASE + path, body, token=self._token, timeout_s=_LONG_S
        )

    async def events(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the JSON of a stream of server-sent events."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_LONG_S)
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=timeout, headers=headers, read_bufsize=1 << 22
                ) as session,
                session.get(self._node.rstrip("/") + BASE + path) as answer,
            ):
                if answer.status >= 400:
                    raise refusal(await answer.json(content_type=None), answer.status)
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(self._node, error) from error


# looking


@guarded
def status(
    node: NodeUrl = "http://127.0.0.1:8402", folder: DataDir = None, as_json: AsJson = False
) -> None:
    """Show how the node stands: money, channels, adapters, trainings."""
    found = run(Operator(node, folder).ask("GET", "/status"))
    if show(found, as_json=as_json):
        return
    decimals = found["tokenDecimals"]
    money = [(name, format_units(int(found[key]), decimals)) for name, key in _MONEY]
    table(f"Node {found['node']}", ("what", "#value"), [*money, *_counts(found)])
    table(
        "On offer",
        ("#id", "model", "#prompt a million", "#completion a million"),
        [
            (
                each["adapterId"],
                each["model"],
                format_units(int(each["promptPrice"]), decimals),
                format_units(int(each["completionPrice"]), decimals),
            )
            for each in found["adapters"]
        ],
    )


_MONEY: Final = (
    ("wallet", "balance"),
    ("to collect", "owed"),
    ("billed so far", "billed"),
    ("signed, not claimed", "unclaimed"),
)


def _counts(found: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("channels", found["channels"]),
        ("receipts", found["receipts"]),
        ("requests running", found["running"]),
        ("trainings", len(found["trainings"])),
    ]


# licensing and training


@guarded
def license_work(
    content_ids: Annotated[list[int], typer.Argument(help="Works to acquire a grant to.")],
    max_fee: Annotated[str, typer.Option(help="Pay at most this much a work.")] = "",
    node: NodeUrl = "http://127.0.0.1:8402",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Acquire a grant to works for this node, paying each creator's training fee."""
    grants = run(_license(Operator(node, folder), content_ids, max_fee))
    if not show(grants, as_json=as_json):
        rows = [(g["content_id"], g["expires_at"] or "never", g["live"]) for g in grants]
        table("Grants", ("#work", "#expires at", "live"), rows)


async def _license(operator: Operator, content_ids: list[int], max_fee: str) -> list[Any]:
    bound = {}
    if max_fee:
        decimals = (await operator.ask("GET", "/status"))["tokenDecimals"]
        bound = {"maxFee": str(parse_units(max_fee, decimals))}
    return [
        await operator.ask("POST", "/grants", {"contentId": content_id} | bound)
        for content_id in content_ids
    ]


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
        "works": [{"path": str(_work_file(work).absolute())} for work in works],
        "settings": dict(_setting(each) for each in setting or ()),
    }
    if name:
        request["name"] = name
    operator = Operator(node, folder)
    if dry_run:
        plan = run(operator.ask("POST", "/trainings", request | {"dryRun": True}))
        if not show(plan, as_json=as_json):
            fees = [(f"fee of work {work}", fee) for work, fee in plan["fees_units"].items()]
            table("Training would take", ("what", "#value"), [*plan["estimate"].items(), *fees])
        return
    result = run(_train(operator, request, quiet=as_json))
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
            )
        )
    if not show(result, as_json=as_json):
        _say_trained(result)


def _work_file(work: Path) -> Path:
    """Return the file of a work that is named by its folder's terms.toml, or by itself."""
    if not work.is_dir():
        return work
    from viz.services.registration import read_description

    return work / read_description(work / "terms.toml", token_decimals=18).file


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"{text!r} is not a setting: write it as NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


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
    if end.get("state") != "done":
        raise TrainingError(f"training {started['id']} {end.get('state')}: {end.get('error')}")
    return {"id": started["id"], **end["result"]}


def _say_trained(result: dict[str, Any]) -> None:
    metrics = result["metrics"]
    held_out, repeated = metrics["heldOut"], metrics["memorisation"]
    rows: list[tuple[str, object]] = [
        ("held-out loss before", f"{held_out['before']['loss']:.3f}"),
        ("held-out loss after", f"{held_out['after']['loss']:.3f}"),
        ("longest verbatim run, tokens", repeated["adapter"]["longest_tokens"]),
        ("the same of the base model", repeated["base"]["longest_tokens"]),
        ("seconds", round(metrics["seconds"])),
        ("shares", ", ".join(f"work {work}: {bps} bps" for work, bps in result["shares"])),
        ("weights digest", result["weightsDigest"]),
    ]
    if publication := result.get("publication"):
        rows += [
            ("CID", publication["cid"]),
            ("adapter", publication["adapter_id"]),
            ("model name", publication["offer"]["model"]),
        ]
    table(f"Training {result['id']}", ("what", "value"), rows)


# adapters


@adapter_app.command("list")
@guarded
def list_adapters(node: NodeUrl = "http://127.0.0.1:8402", as_json: AsJson = False) -> None:
    """List the adapters on offer."""
    found = run(ask("GET", node, "/viz/v1/adapters"))["adapters"]
    if not show(found, as_json=as_json):
        rows = [(a["adapterId"], a["name"], a["cid"], a["weightsDigest"][:18]) for a in found]
        table("Adapters", ("#id", "name", "CID", "weights digest"), rows)


@adapter_app.command("show")
@guarded
def show_adapter(
    adapter_id: int, node: NodeUrl = "http://127.0.0.1:8402", as_json: AsJson = False
) -> None:
    """Show an adapter as the chain has it, with its royalty table."""
    found = run(ask("GET", node, f"/viz/v1/adapters/{adapter_id}"))
    if not show(found, as_json=as_json):
        table(f"Adapter {adapter_id}", ("what", "value"), found.items())


@adapter_app.command("register")
@guarded
def register_adapter(
    training: Annotated[str, typer.Argument(help="The training run whose adapter it is.")],
    name: Annotated[str, typer.Option(help="What to sell it as.")] = "",
    royalty_bps: Royalty = 3_000,
    trainer_bps: TrainerPart = 1_000,
    share: SharesOption = None,
    node: NodeUrl = "http://127.0.0.1:8402",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Store a trained adapter, register it with its royalty table, and put it on offer."""
    request: dict[str, Any] = {
        "trainingId": training,
        "royaltyBps": royalty_bps,
        "trainerBps": trainer_bps,
    }
    if name:
        request["name"] = name
    if share:
        request["shares"] = [_share(each) for each in share]
    found = run(Operator(node, folder).ask("POST", "/publications", request))
    if not show(found, as_json=as_json):
        out.print(f"adapter {found['adapter_id']} is {found['offer']['model']}, {found['cid']}")


def _share(text: str) -> list[int]:
    content_id, colon, bps = text.partition(":")
    if not (colon and content_id.isdecimal() and bps.isdecimal()):
        raise InvalidRequest(f"{text!r} is not a share: write it as CONTENT:BPS")
    return [int(content_id), int(bps)]


@adapter_app.command("activate")
@guarded
def activate_adapter(
    adapter_id: int, node: NodeUrl = "http://127.0.0.1:8402", folder: DataDir = None
) -> None:
    """Fetch a registered adapter by its CID, check it, and put it on offer."""
    found = run(Operator(node, folder).ask("POST", "/adapters", {"adapterId": adapter_id}))
    out.print(f"adapter {adapter_id} is on offer as {found['model']}")


@adapter_app.command("drop")
@guarded
def drop_adapter(
    adapter_id: int, node: NodeUrl = "http://127.0.0.1:8402", folder: DataDir = None
) -> None:
    """Take an adapter off the offer."""
    run(Operator(node, folder).ask("DELETE", f"/adapters/{adapter_id}"))
    out.print(f"adapter {adapter_id} is not on offer any more")


# money


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
    """Claim every signed voucher in one batch, pay creators, and collect."""
    found = run(_settle(Operator(node, folder), distribute, collect))
    if show(found, as_json=as_json):
        return
    decimals = found["tokenDecimals"]
    claim = found["claim"]
    rows: list[tuple[str, object]] = [
        ("vouchers claimed", claim["settled"]),
        ("dropped", claim["dropped"]),
        ("still waiting", claim["waiting"]),
        ("claimed", format_units(int(claim["claimed_units"]), decimals)),
    ]
    for sent in claim["transactions"]:
        rows.append(("gas of the claim", sent["gas_used"]))
    for adapter_id, sent in found["distributed"].items():
        paid = next((e["args"]["paid"] for e in sent["events"] if e["name"] == "Distributed"), 0)
        rows.append((f"creators of adapter {adapter_id}", format_units(int(paid), decimals)))
    table("Settlement", ("what", "#value"), rows)


async def _settle(operator: Operator, distribute: bool, collect: bool) -> dict[str, Any]:
    standing = await operator.ask("GET", "/status")
    found: dict[str, Any] = {
        "tokenDecimals": standing["tokenDecimals"],
        "claim": await operator.ask("POST", "/settle"),
        "distributed": {},
    }
    if distribute:
        for offer in standing["adapters"]:
            adapter_id = offer["adapterId"]
            if adapter_id:
                body = {"adapterId": adapter_id}
                found["distributed"][adapter_id] = await operator.ask("POST", "/distribute", body)
    if collect:
        found["collected"] = await operator.ask("POST", "/collect")
    return found
