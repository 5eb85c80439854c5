"""Run `viz audit node`: buy one answer, and follow its money to the creators."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.audit import evidence
from viz.cli.audit.probe_report import not_checked, report_of, say_report
from viz.cli.audit.replaying import judge_for, replayed
from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    PasswordFile,
    Yes,
    agreed,
    data_dir,
    err,
    guarded,
    lines,
    out,
    password,
    run,
)
from viz.cli.noticed import why_absent
from viz.cli.own_chain import CreatorRpcOption, own_chain, required_rpc, trusted_deployment
from viz.client.node_address import checked
from viz.domain.display import amount, counted, prices
from viz.domain.ports.engine import DEFAULT_BASE
from viz.domain.units import BASE_MODEL, ZERO_ADDRESS, parse_units
from viz.errors import (
    ChannelClosing,
    ConfigError,
    InvalidRequest,
    NodeNotTrusted,
    UnknownModel,
    VizError,
)

if TYPE_CHECKING:
    from viz.buyer.client import BuyerClient
    from viz.buyer.probe import ProbeEvidence
    from viz.chain.contracts import Chain
    from viz.domain.ports.chain import Deployment
    from viz.domain.units import Units

PROMPT = "Say in one sentence what you know."
TOKENS = 24


@dataclass(frozen=True, slots=True)
class _Order:
    """What the auditor asks for, and the most that it may cost."""

    node: str
    model: str
    prompt: str
    tokens: int
    most_units: Units
    deposit_units: Units
    key: Path | None
    goes_on: bool
    keeps_open: bool
    yes: bool
    quiet: bool
    weights: Path | None
    base_model: str

    @property
    def replays(self) -> bool:
        """Whether the answer is to be replayed."""
        return self.weights is not None or bool(self.base_model)


@guarded
def node(
    url: Annotated[str, typer.Argument(help="The node's URL.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Key file of the wallet that pays, and gets the rest back."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The model to ask. Default: the node's first adapter.")
    ] = "",
    prompt: Annotated[str, typer.Option(help="What to ask.")] = PROMPT,
    tokens: Annotated[
        int, typer.Option(min=1, max=512, help="Most tokens of the answer.")
    ] = TOKENS,
    max_cost: Annotated[str, typer.Option(help="Most to pay for the answer.")] = "0.01",
    deposit: Annotated[
        str, typer.Option(help="What to deposit for it. Most of it comes back.")
    ] = "0.05",
    weights: Annotated[
        Path | None,
        typer.Option(help="File of the adapter's plain weights, to replay the answer as well."),
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="Name or folder of the base model, to replay the answer.")
    ] = "",
    keep_open: Annotated[
        bool,
        typer.Option(
            "--keep-open",
            help="Do not close the channel: the node claims when it wants; see --go-on.",
        ),
    ] = False,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Buy nothing: check the last probe's money again.")
    ] = False,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Audit a node as one of its buyers: a small answer is paid, and its money followed.

    Compares the offers with the chain, checks the answer's receipt and the channel's receipts with
    the heads on the chain, and follows claim and split to each work's owner, to the unit, by the
    contracts' events. The channel is the audit's own, and is closed at the end. With the adapter's
    weights the answer is replayed too; without them the verdict says that it was not. Exit code 0:
    all that was checked holds. 13: something is false.
    14: something could not be checked yet, which --go-on does later.
    """
    trusted = trusted_deployment(deployment, folder)
    rpc = required_rpc(rpc, trusted, "an audit of a node")
    if key is None and not go_on:
        raise InvalidRequest("name the wallet that pays for the probe with --key, or use --go-on")
    order = _Order(
        checked(url),
        model,
        prompt,
        tokens,
        parse_units(max_cost, trusted.token_decimals),
        parse_units(deposit, trusted.token_decimals),
        key,
        go_on,
        keep_open,
        yes,
        as_json,
        weights,
        base_model,
    )
    place = data_dir(folder)
    secret = password(password_file)
    if key is not None:
        _wallet(key, secret)  # a wrong key or password is told before a node is asked
    found = run(_audit(order, trusted, rpc, place, secret))
    record = found.pop("recordFile")
    if record is not None and order.replays:
        _replay(found, record, order, rpc, trusted, place)
    found["verdict"] = _verdict(found)
    found["notChecked"] = not_checked(found)
    if not as_json:
        say_report(found, trusted)
    evidence.finish(found, as_json=as_json)


def _replay(
    found: dict[str, Any], record: Path, order: _Order, rpc: str, trusted: Deployment, place: Path
) -> None:
    """Replay the answer that was paid; what hinders it costs nothing of the report on the money."""
    try:
        replay = replayed(record, order.weights, order.base_model, rpc, trusted, place)
    except VizError as error:
        found["missing"].append(f"the answer's replay: {error.detail}")
        return
    found["replay"] = replay["replay"]
    found["findings"] += replay["findings"]
    found["missing"] += replay["missing"]


def _verdict(found: dict[str, Any]) -> str:
    from viz.domain.verdict import verdict_of

    return verdict_of(found["findings"], found["missing"], checked=True)


async def _audit(
    order: _Order, trusted: Deployment, rpc: str, place: Path, secret: str
) -> dict[str, Any]:
    from viz.audit.offer_audit import audit_offers
    from viz.buyer import probe
    from viz.cli.audit.shown import NodeShows

    found = probe.ProbeEvidence()
    async with (
        own_chain(rpc, trusted) as chain,
        _client(order, trusted, chain, place, secret) as (
            client,
            refusal,
        ),
    ):
        if client is None:
            return report_of(found, None, {}, None) | {"findings": [refusal]}
        offers = await audit_offers(client.info, chain, NodeShows(order.node))
        file = _record_file(client, place)
        if order.goes_on:
            found.record = _kept(file)
        elif offers.findings:
            found.missing.append("an answer: none is bought where the chain contradicts the offers")
        else:
            await _buy(client, chain, found, order, place, secret)
        await probe.collect(client, found)
        if client.channel.deposit_units and not order.keeps_open and order.key is not None:
            await probe.close(client, found, _wallet(order.key, secret))
        money = await _money(client, chain, found)
        return report_of(found, offers, money, file if found.record else None)


@asynccontextmanager
async def _client(
    order: _Order, trusted: Deployment, chain: Chain, place: Path, secret: str
) -> AsyncIterator[tuple[BuyerClient | None, str]]:
    """Yield a client with the audit's own channel, or None and why the node is not trusted."""
    import aiohttp

    from viz.buyer.client import BuyerClient
    from viz.buyer.terms.prices import limits_in

    async with aiohttp.ClientSession() as http:
        try:
            client = await BuyerClient.connect(
                http,
                order.node,
                home=place / "audits",
                password=secret,
                expected=trusted,
                chain=chain,
                limits=limits_in(trusted, request_units=order.most_units),
            )
        except NodeNotTrusted as error:
            yield None, error.detail
            return
        try:
            yield client, ""
        finally:
            await client.aclose()


async def _buy(
    client: BuyerClient,
    chain: Chain,
    found: ProbeEvidence,
    order: _Order,
    place: Path,
    secret: str,
) -> None:
    """Show what the probe costs at most, deposit, ask, and keep the record of the answer."""
    from viz.buyer import probe
    from viz.private import write_private

    try:
        offer = await client.offer_of(order.model or _first(client))
    except NodeNotTrusted as error:
        found.findings.append(error.detail)
        return
    except UnknownModel as error:
        raise await why_absent(order.node, order.model, error) from error
    if order.replays:
        state = await chain.adapter(offer.adapter_id) if offer.adapter_id != BASE_MODEL else None
        given = (order.weights, order.base_model or DEFAULT_BASE, None, False)
        # Wrong weights, another base or a missing model stack are told before anything is paid.
        await asyncio.to_thread(judge_for, state, given, place)
    await client.look()  # after a close by another command there is less than its files say
    here, least = client.deployment, client.info.minimum_deposit_units
    has = client.channel.deposit_units if client.channel.payer != ZERO_ADDRESS else 0
    adds = 0 if has >= order.most_units else max(order.deposit_units, order.most_units, least)
    lines(
        "The probe:",
        [
            ("node", f"{client.info.node}  at {order.node}"),
            ("model", f"{offer.model}  {offer.name}"),
            ("price", prices(offer.prompt_price_units, offer.completion_price_units, here)),
            ("question", order.prompt),
            ("at most", f"{amount(order.most_units, here)} for {counted(order.tokens, 'token')}"),
            ("deposit", f"{amount(adds, here)}, and {amount(has, here)} is there"),
            ("the rest", "stays in the channel" if order.keeps_open else "comes back at the end"),
        ],
        to=err if order.quiet else out,
    )
    agreed("Buy it?", yes=order.yes)
    assert order.key is not None
    try:
        if adds:
            await client.open_channel(_wallet(order.key, secret), adds)
    except ChannelClosing as error:
        found.missing.append(
            f"an answer: {error.detail}. The audit has one channel at a node, and was not paid for "
            "another answer; --go-on checks the last one again"
        )
        return
    body = {
        "model": offer.model,
        "messages": [{"role": "user", "content": order.prompt}],
        "max_tokens": order.tokens,
        "temperature": 0,
    }
    await probe.ask(client, found, body)
    if found.record is not None:
        text = json.dumps(found.record.to_json(), indent=2) + "\n"
        write_private(_record_file(client, place), text.encode())


def _record_file(client: BuyerClient, place: Path) -> Path:
    return place / "audits" / f"{client.info.node}.json"


def _first(client: BuyerClient) -> str:
    """Return the model to ask if none is named: the first adapter, else the base model."""
    offers = client.info.adapters
    if not offers:
        raise InvalidRequest("the node sells nothing: there is nothing to buy for a probe")
    return next((each.model for each in offers if each.adapter_id != BASE_MODEL), offers[0].model)


def _wallet(key: Path, secret: str) -> Any:
    from viz.buyer.wallet.wallet import KeyWallet
    from viz.chain.keys import load_key_file

    return KeyWallet(bytes(load_key_file(key, secret).key))


def _kept(file: Path) -> Any:
    from viz.given_file import about, read_given
    from viz.protocol.answer_evidence import MAX_EVIDENCE_BYTES, AnswerEvidence

    if not file.exists():
        raise ConfigError(
            f"there is no probe of this node to go on with ({file}): leave out --go-on"
        )
    raw = read_given(file, MAX_EVIDENCE_BYTES)
    with about(file, "Leave out --go-on to probe again"):
        return AnswerEvidence.read(raw)


async def _money(client: BuyerClient, chain: Chain, found: ProbeEvidence) -> dict[str, Any]:
    """Compare the receipts with the settled heads, and follow what they bill to the owners."""
    from viz.buyer.probe import domain_of
    from viz.chain.settlement_history import SettlementHistory
    from viz.domain.money_trail import follow
    from viz.domain.receipt_audit import audit_receipts
    from viz.domain.typed_data import channel_id

    history = SettlementHistory(chain)
    last = await chain.rpc.block()
    read, events = await history.read(last), await history.events(last.number)
    ours = channel_id(client.signer, client.info.node)
    await history.require_settled(events, [ours], last.number)
    claims = [event for event in events if event.name == "Claimed"]
    node = client.info.node
    heads = audit_receipts(
        found.receipts, claims, node=node, domain=domain_of(client), money_followed=True
    )
    others = [each for each in heads.channels if each != ours]
    found.findings += heads.findings
    found.missing += heads.missing
    found.findings += [f"the node hands out receipts of another channel ({len(others)})"] * bool(
        others
    )
    found.findings += read.findings()
    found.missing += read.missing()
    billed = heads.channels[ours].by_adapter if ours in heads.channels else {}
    trail = follow(events, ours, billed, node, ended=found.ended)
    found.findings += trail.findings
    found.missing += [
        f"{each}: claims come by the node's own schedule; look again with --go-on"
        for each in trail.missing
    ]
    if not billed and not found.missing and not found.findings:
        found.missing.append("a bill: the node charged nothing for the answer")
    return {"block": last.number, **trail.to_json()}
