"""Run `viz buyer`: show a node's models, ask them, and pay for their answers."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.buyer.buying import (
    BuyerRpcOption,
    Caps,
    MaxCompletionPrice,
    MaxCost,
    MaxPrice,
    MaxPromptPrice,
    channel_control,
    client_at,
    home_of,
    node_info,
    recorder_of,
    write_record,
)
from viz.cli.buyer.networking import (
    AllowNode,
    BuyersNode,
    MaxDeposit,
    MaxPerDay,
    SpendingOptions,
    WalletKey,
    network_control,
    network_models,
    require_no_node,
)
from viz.cli.buyer.proxying import (
    ProxyDoor,
    cost_words,
    print_deposits,
    print_market,
    print_parts,
    serve_network,
    serve_node,
    serving_until_stopped,
)
from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    PasswordFile,
    err,
    guarded,
    lines,
    out,
    password,
    plain,
    run,
    say,
    show,
    table,
    until_signal,
)
from viz.cli.noticed import notices_in_words
from viz.cli.own_chain import trusted_deployment
from viz.client.node_address import checked
from viz.domain.display import amount, counted, moment, prices
from viz.domain.units import BASE_MODEL
from viz.errors import BooksMismatch, ConfigError, InvalidRequest, VizError
from viz.given_file import read_secret
from viz.written_file import require_new

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment
    from viz.protocol.messages import AdapterOffer

app = typer.Typer(no_args_is_help=True, help="Ask the nodes' models, and pay by signed vouchers.")


@app.command()
@guarded
def models(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Show only models whose description has all these words."),
    ] = None,
    node: BuyersNode = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: BuyerRpcOption = "",
    as_json: AsJson = False,
) -> None:
    """Show what the nodes sell: each model with its description, its works and its prices.

    With --rpc, the nodes are those in the chain's directory, and every offer is checked on the
    chain. Without it, they are the nodes that you used before, and the nodes that those know. Names
    and descriptions are the nodes' claims; titles and credits are the owners' if a work is listed.
    """
    here, wanted = trusted_deployment(deployment, folder), tuple(words or ())
    unit = {"decimals": here.token_decimals, "symbol": here.token_symbol}
    if node:
        info = run(node_info(node, here))
        offers = [each for each in info.adapters if _has_words(each, wanted)]
        there_are = bool(offers)
        said = {"node": info.node, "models": [offer.to_json() for offer in offers], **unit}
        if not show(said, as_json=as_json):
            for offer in offers:
                _print_offer(offer, here)
            if wanted and not offers:
                say("No model on offer has these words.")
    else:
        found = run(network_models(folder, here, rpc, wanted))
        there_are = bool(found)
        if not show({"models": [model.to_json() for model in found], **unit}, as_json=as_json):
            print_market(found, here)
    if there_are and not as_json:
        say('Ask one by its id or its name: viz buyer ask "..." --model NAME', style="dim")


def _has_words(offer: AdapterOffer, words: tuple[str, ...]) -> bool:
    titles = [work.title for work in offer.works]
    told = "\n".join((offer.model, offer.name, offer.description, *titles)).casefold()
    return all(word.casefold() in told for word in words)


def _print_offer(offer: AdapterOffer, here: Deployment) -> None:
    title = f"{offer.model}: {offer.name}" if offer.name not in ("", offer.model) else offer.model
    works = [f"{work.title or 'untitled'} (work {work.content_id})" for work in offer.works]
    both = prices(offer.prompt_price_units, offer.completion_price_units, here)
    rows: list[tuple[str, object]] = [("price", both)]
    if offer.sold_until_s is not None:
        rows.append(("sold until", moment(offer.sold_until_s)))
    if works:
        rows.insert(0, ("works", ", ".join(works)))
    elif offer.adapter_id != BASE_MODEL:
        rows.insert(0, ("works", "not named by the node"))
    if offer.card is not None and offer.card.asked:
        card = offer.card
        rows.append(
            (
                "answers right",
                f"{card.right} of {counted(card.asked, 'question')} (base: {card.base_right})",
            )
        )
        if card.committed_asked:
            said = f"{card.committed_right} of {card.committed_asked}"
            rows.append(("creators' questions", f"{said} (base: {card.committed_base_right})"))
    if offer.description:
        rows.insert(0, ("knows", offer.description))
    if offer.notices is not None:
        rows.append(("notices", notices_in_words(offer.notices)))
    lines(title, rows)


@app.command()
@guarded
def ask(
    prompt: Annotated[str, typer.Argument(help="The question.")],
    model: Annotated[
        str, typer.Option(help="A model's id, name or NAME@DIGEST, as in `viz buyer models`.")
    ] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 128,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="Sampling temperature; 0 is greedy. Default: the model's."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            help="Write request, text and receipt to this file, for `viz audit answer`; with "
            "--node.",
        ),
    ] = None,
    max_price: MaxPrice = "",
    max_prompt_price: MaxPromptPrice = "",
    max_completion_price: MaxCompletionPrice = "",
    max_cost: MaxCost = "",
    max_per_day: MaxPerDay = "",
    max_deposit: MaxDeposit = "",
    allow_node: AllowNode = None,
    key: WalletKey = None,
    node: BuyersNode = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: BuyerRpcOption = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and pay for the answer while it streams.

    Without --node, the best of the nodes that serve the model answers; if it fails during the
    answer, another one continues. If a proxy is running, it asks, and you need no password. If you
    do not give a model's id, the command prints the chosen model and its price before the answer.
    """
    caps = Caps(max_price, max_prompt_price, max_completion_price, max_cost)
    spends = SpendingOptions(key, max_per_day, max_deposit, tuple(allow_node or ()))
    require_no_node(node, spends)
    if record is not None and not node:
        raise InvalidRequest("a record is of one node's answer: name it with --node")
    if record is not None:
        require_new(record, "--record")  # before anything is paid
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        **({} if temperature is None else {"temperature": temperature}),
    }
    if model:
        body["model"] = model

    arrived: list[str] = []

    async def write(text: str) -> None:
        if as_json:
            arrived.append(text)
        else:
            sys.stdout.write(plain(text, keep="\n\t"))
            sys.stdout.flush()

    async def tell(line: str) -> None:
        err.print(plain(line), markup=False, soft_wrap=True)

    async def work() -> None:
        from viz.buyer.asking import costs_in

        secret = partial(password, password_file)
        async with AsyncExitStack() as ends:
            control = await ends.enter_async_context(
                channel_control(node, folder, deployment, secret, rpc, caps)
                if node
                else network_control(folder, deployment, secret, rpc, caps, spends)
            )
            recorder = recorder_of(control) if record is not None else None
            here = control.deployment
            try:
                done = await control.ask(body, write, tell)
            except VizError as error:
                if as_json and (costs := costs_in(error)):
                    said = {"code": error.code, "detail": error.detail}
                    unit = {"decimals": here.token_decimals, "symbol": here.token_symbol}
                    show({"error": said, "text": "".join(arrived), **costs, **unit}, as_json=True)
                raise
            if record is not None and recorder is not None:
                write_record(recorder, record)
            found = done | {"decimals": here.token_decimals, "symbol": here.token_symbol}
            if not show(found, as_json=as_json):
                out.print()
                cost = cost_words(int(done["cost"]), here, billed=done.get("billed", True))
                say(f"{done['model']}, {cost}", style="dim")
                print_parts(done.get("parts", []), here)
                print_deposits(done.get("deposits", []), here)

    run(work())


@app.command()
@guarded
def proxy(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on.")] = 8403,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Keep the default: all who reach it spend your deposit."
        ),
    ] = "127.0.0.1",
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", help="File with the OPENAI_API_KEY that programs must send."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another host name by which programs may reach the proxy."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of a web page that may spend, such as https://app.example."),
    ] = None,
    max_price: MaxPrice = "",
    max_prompt_price: MaxPromptPrice = "",
    max_completion_price: MaxCompletionPrice = "",
    max_cost: MaxCost = "",
    max_per_day: MaxPerDay = "",
    max_deposit: MaxDeposit = "",
    allow_node: AllowNode = None,
    wallet_key: WalletKey = None,
    node: BuyersNode = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: BuyerRpcOption = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Run a local OpenAI-compatible server that pays for every answer.

    Without --node, it asks the best of the nodes that serve each model; if that node fails during
    the answer, another one continues. It prints each answer's cost, and the sum at the end, on
    standard error. While it runs, `viz buyer ask` and `viz channel` use it, and GET
    /viz/v1/spending shows what was spent.
    """
    secret = password(password_file)
    caps = Caps(max_price, max_prompt_price, max_completion_price, max_cost)
    spends = SpendingOptions(wallet_key, max_per_day, max_deposit, tuple(allow_node or ()))
    require_no_node(node, spends)
    door = ProxyDoor(
        host, port, _api_key(api_key_file), api_key_file, allow_host or (), allow_origin or ()
    )
    serving = (
        serve_node(
            door, folder, client_at(node, folder, deployment, secret, rpc, caps), checked(node)
        )
        if node
        else serve_network(door, folder, deployment, secret, rpc, caps, spends)
    )
    run(until_signal(serving_until_stopped(serving, as_json=as_json)), serves=True)


@app.command()
@guarded
def spending(
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what you spent, by day and model, also on channels that `viz channel renew` set aside.

    The command only reads files in the data folder: it needs no password and no node, and works
    while a proxy is running.
    """
    from viz import log
    from viz.buyer.ledger.network_record import FILE, held_at
    from viz.buyer.ledger.spending import reports_on_disk
    from viz.clock import SystemClock

    log.configure("warning")
    here = trusted_deployment(deployment, folder)
    found, unread = reports_on_disk(home_of(folder), here)
    unit = {"decimals": here.token_decimals, "symbol": here.token_symbol}
    try:
        held_units = held_at(home_of(folder), SystemClock().now_s())
    except BooksMismatch:
        held_units, unread = 0, [*unread, home_of(folder) / FILE]
    told = {
        "channels": found,
        "unread": [str(each) for each in unread],
        "held": str(held_units),
        **unit,
    }
    if show(told, as_json=as_json):
        return
    if not found:
        out.print(
            f"{home_of(folder)} has no channel: open one with `viz channel open`, or name its "
            "folder with --data-dir",
            soft_wrap=True,
        )
    for channel in found:
        _print_spending(channel, here)
    if held_units:
        say(
            f"held  {amount(held_units, here)} of --max-per-day, by answers under way or whose "
            "process was killed (these count until the end of the next day, UTC)"
        )
    for each in unread:
        say(f"{each} cannot be read: what was spent there is not counted")


def _print_spending(channel: dict[str, Any], here: Deployment) -> None:
    rows: list[tuple[object, ...]] = [
        (
            each["day"],
            each["model"],
            each["requests"],
            each["promptTokens"],
            each["completionTokens"],
            amount(int(each["units"]), here),
        )
        for each in channel["days"]
    ]
    if int(channel["unlisted"]):
        # Answers that broke off, and answers from before this record existed.
        rows.append(("other", "", "", "", "", amount(int(channel["unlisted"]), here)))
    rows.append(("in all", "", "", "", "", amount(int(channel["spent"]), here)))
    columns = ("day (UTC)", "model", "#answers", "#prompt", "#completion", "#cost")
    former = f" through the former channel of {channel['signer']}" if channel["former"] else ""
    table(f"Spent at {channel['node']}{former}", columns, rows)
    if not former:
        out.print(f"{amount(int(channel['left']), here)} left of the deposit", soft_wrap=True)


def _api_key(file: Path | None) -> str:
    if file is None:
        return ""
    key = read_secret(file, "the API key file", ConfigError)
    if not key:
        raise ConfigError(f"the API key file {file} is empty: write a long random text into it")
    return key
