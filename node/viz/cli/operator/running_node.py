"""Send the operator's commands to the running node, the only process that uses its key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    data_dir,
    guarded,
    money,
    out,
    run,
    say,
    show,
    table,
)
from viz.cli.http import (
    LOCAL_NODE,
    OPERATOR_FILE,
    NodeUrl,
    OperatedNode,
    ask,
    events,
    require_not_foreign,
)
from viz.cli.noticed import ended_rows, notices_rows
from viz.cli.operator.answers import require_operators_form, require_progress
from viz.cli.operator.training_progress import stands
from viz.domain.display import moment, percent
from viz.domain.strict_json import MemberTwice, load_json
from viz.domain.units import BPS, UINT32_MAX, UINT64_MAX, parse_units
from viz.errors import ConfigError, InvalidRequest
from viz.given_file import read_secret
from viz.local_socket import OPERATOR_SOCKET, is_listening
from viz.protocol.answers import AnswerObject, no_answer

BASE: Final = "/operator/v1"
_LONG_S: Final = 900

adapter_app = typer.Typer(
    no_args_is_help=True, help="List, register, activate and drop the node's adapters."
)

RoyaltyOption = Annotated[
    int, typer.Option(min=0, max=BPS, help="The works' part of gross revenue, in basis points.")
]
TrainerPartOption = Annotated[
    int,
    typer.Option(min=0, max=BPS, help="The trainer's part of gross revenue, in basis points."),
]
PromptPriceOption = Annotated[
    str, typer.Option(help="Price of a million prompt tokens, such as 1.25.")
]
CompletionPriceOption = Annotated[
    str, typer.Option(help="Price of a million completion tokens, such as 2.50.")
]
PublishAnywayOption = Annotated[
    bool, typer.Option("--publish-anyway", help="Sell the adapter even if its report card fails.")
]
NameOption = Annotated[str, typer.Option(help="Name under which the adapter is sold.")]
DescriptionOption = Annotated[str, typer.Option(help="Description of the adapter, for buyers.")]
AdapterArgument = Annotated[
    int, typer.Argument(min=1, max=UINT32_MAX, help="The adapter's id on the chain.")
]
SharesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--share",
        help="Share of one work, as WORK:BPS; repeat it. Default: by the works' sizes.",
    ),
]


class OperatorClient:
    """Call the running node with the operator's token.

    If ``node`` is empty, call the socket in its folder, where only the operator can connect.
    """

    def __init__(self, node: str, folder: Path | None) -> None:
        home = data_dir(folder)
        here = not node and is_listening(home, OPERATOR_SOCKET)
        self._node: str | Path = home if here else node or LOCAL_NODE
        file = home / OPERATOR_FILE
        try:
            self._token = read_secret(file, "the operator's token", ConfigError)
        except ConfigError as error:
            raise ConfigError(f"{error.detail}: name the node's folder with --data-dir") from error
        if isinstance(self._node, str):
            require_not_foreign(self._node, file)

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer to an operator's call, whose form is checked.

        Raises as ``viz.cli.http.ask``.
        """
        answer = await ask(
            method, self._node, BASE + path, body, token=self._token, timeout_s=_LONG_S
        )
        require_operators_form(method, path, answer)
        return answer

    async def events(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a training run, whose form is checked; raise as ``ask``."""
        async for event in events(self._node, BASE + path, token=self._token, silence_s=_LONG_S):
            try:
                value = load_json(event.data, object_hook=AnswerObject)
            except MemberTwice as error:
                raise no_answer(f"in an event of it {error}") from error
            except ValueError as error:
                raise no_answer("an event of it is not JSON") from error
            require_progress(value)
            yield value


# looking


@guarded
def status(node: OperatedNode = "", folder: DataDir = None, as_json: AsJson = False) -> None:
    """Show the node's money, channels, adapters, training runs, and the loops that fail."""
    found = run(OperatorClient(node, folder).ask("GET", "/status"), logs=False)
    if show(found, as_json=as_json):
        return
    for name, failure in found["failing"].items():
        say(f"{name} fails since {moment(failure['since'])}: {failure['error']}", style="red")
    amounts = [(name, money(found[key], found)) for name, key in _MONEY]
    table(f"Node {found['node']}", ("what", "#value"), [*amounts, *_counts(found)])
    table(
        "On offer",
        ("#id", "model", "#prompt a million", "#completion a million"),
        [
            (
                each["adapterId"],
                each["model"],
                money(each["promptPrice"], found),
                money(each["completionPrice"], found),
            )
            for each in found["adapters"]
        ],
    )


_MONEY: Final = (
    ("wallet", "balance"),
    ("to collect", "collectable"),
    ("billed so far", "billed"),
    ("signed, not claimed", "unclaimed"),
)


def _counts(found: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("channels", found["channels"]),
        ("receipts", found["receipts"]),
        ("requests running", found["running"]),
        ("trainings", len(found["trainings"])),
        ("notices to answer", found.get("openNotices", 0)),
        *(
            (f"training {each['id']}", stands(each))
            for each in found["trainings"]
            if each["state"] == "running"
        ),
    ]


# adapters


@adapter_app.command("list")
@guarded
def list_adapters(node: NodeUrl = LOCAL_NODE, as_json: AsJson = False) -> None:
    """List the adapters on offer."""
    found = run(ask("GET", node, "/viz/v1/adapters"), logs=False)["adapters"]
    if not show(found, as_json=as_json):
        rows = [(a["adapterId"], a["name"], a["cid"], a["weightsDigest"]) for a in found]
        table("Adapters", ("#id", "name", "CID", "weights digest"), rows)


@adapter_app.command("show")
@guarded
def show_adapter(
    adapter_id: AdapterArgument, node: NodeUrl = LOCAL_NODE, as_json: AsJson = False
) -> None:
    """Show an adapter as the chain has it, with its royalty table."""
    found = run(ask("GET", node, f"/viz/v1/adapters/{adapter_id}"), logs=False)
    if not show(found, as_json=as_json):
        table(f"Adapter {adapter_id}", ("what", "value"), _adapter_rows(found))


def _adapter_rows(found: dict[str, Any]) -> list[tuple[str, object]]:
    shares = ", ".join(f"work {work}: {percent(bps)}" for work, bps in found["shares"])
    served = "yes" if found["servedHere"] else "no"
    retires_s = found["retiresAt"]
    rows: list[tuple[str, object]] = [
        (name, found[key])
        for name, key in (
            ("name", "name"),
            ("description", "description"),
            ("trainer", "trainer"),
            ("base model", "baseModel"),
            ("weights digest", "weightsDigest"),
            ("CID", "cid"),
            ("manifest", "manifestHash"),
        )
        if found.get(key)
    ]
    return [
        *rows,
        ("to the works", f"{percent(found['royaltyBps'])} of gross revenue"),
        ("to the trainer", f"{percent(found['trainerBps'])} of gross revenue"),
        ("shares of the works", shares),
        ("retires", moment(retires_s) if 0 < retires_s < UINT64_MAX else "no date is set"),
        ("served here", served),
        *ended_rows(found),
        *notices_rows(found),
    ]


@adapter_app.command("register")
@guarded
def register_adapter(
    training: Annotated[str, typer.Argument(help="Id of the training run that made the adapter.")],
    name: NameOption = "",
    description: DescriptionOption = "",
    royalty_bps: RoyaltyOption = 3_000,
    trainer_bps: TrainerPartOption = 1_000,
    share: SharesOption = None,
    publish_anyway: PublishAnywayOption = False,
    succeeds: Annotated[
        int,
        typer.Option("--succeeds", min=0, help="Id of the adapter that this one succeeds."),
    ] = 0,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Store a trained adapter, register it with its royalty table, and put it on offer.

    Without a name or description, it gets those that were given to its training.
    """
    request: dict[str, Any] = {
        "trainingId": training,
        "royaltyBps": royalty_bps,
        "trainerBps": trainer_bps,
        "anyway": publish_anyway,
        **({"succeeds": succeeds} if succeeds else {}),
    }
    request |= named(name, description)
    if share:
        request["shares"] = [_share(each) for each in share]
    found = run(OperatorClient(node, folder).ask("POST", "/publications", request), logs=False)
    if not show(found, as_json=as_json):
        if found["offer"] is None:
            say(f"{found['detail']}; its CID is {found['cid']}")
        else:
            say(f"adapter {found['adapter_id']} is {found['offer']['model']}, {found['cid']}")


def named(name: str, description: str) -> dict[str, str]:
    """Return the members of a request for the name and description, without the empty ones."""
    return {k: v for k, v in (("name", name), ("description", description)) if v}


def _share(text: str) -> list[int]:
    content_id, colon, bps = text.partition(":")
    if not (colon and content_id.isdecimal() and bps.isdecimal()):
        raise InvalidRequest(f"{text!r} is not a share: write it as WORK:BPS, such as 3:10000")
    return [int(content_id), int(bps)]


@adapter_app.command("activate")
@guarded
def activate_adapter(
    adapter_id: AdapterArgument,
    name: NameOption = "",
    description: DescriptionOption = "",
    title: Annotated[
        list[str] | None,
        typer.Option("--title", help="Title of a work, as WORK:TITLE, if it was not trained here."),
    ] = None,
    prompt_price: PromptPriceOption = "",
    completion_price: CompletionPriceOption = "",
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a registered adapter by its CID, open and check it, and put it on offer.

    To serve another trainer's adapter you need its permission (`viz adapter permit`). The key then
    comes from the trainer's node, which is found in the directory. If the adapter is on offer
    already, what you leave out stays as it is. A new adapter gets the node's list prices.
    """
    request: dict[str, object] = {"adapterId": adapter_id, **named(name, description)}
    if title:
        request["titles"] = [_title(each) for each in title]
    prices = {"promptPrice": prompt_price, "completionPrice": completion_price}
    found = run(_activate(OperatorClient(node, folder), request, prices), logs=False)
    if not show(found, as_json=as_json):
        say(f"adapter {adapter_id} is on offer as {found['model']}")


def _title(text: str) -> tuple[int, str]:
    content_id, colon, title = text.partition(":")
    if not (colon and content_id.isdecimal() and title.strip()):
        raise InvalidRequest(f"{text!r} is not a work's title: write it as WORK:TITLE")
    return int(content_id), title.strip()


async def _activate(
    operator: OperatorClient, request: dict[str, object], prices: dict[str, str]
) -> Any:
    request |= await priced(operator, prices)
    return await operator.ask("POST", "/adapters", request)


async def priced(operator: OperatorClient, prices: dict[str, str]) -> dict[str, str]:
    """Return the prices that are given, in base units; the node says how many a token has."""
    if not any(prices.values()):
        return {}
    decimals = (await operator.ask("GET", "/status"))["tokenDecimals"]
    return {key: str(parse_units(text, decimals)) for key, text in prices.items() if text}


@adapter_app.command("drop")
@guarded
def drop_adapter(
    adapter_id: AdapterArgument,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take an adapter off the offer."""
    run(OperatorClient(node, folder).ask("DELETE", f"/adapters/{adapter_id}"), logs=False)
    if not show({"adapterId": adapter_id, "onOffer": False}, as_json=as_json):
        out.print(f"adapter {adapter_id} is no longer on offer")
