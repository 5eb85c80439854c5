"""Run both kinds of proxy, for one node and for the network, and print the market's models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viz.cli.buyer.buying import Caps, counted_node, home_of
from viz.cli.buyer.networking import NETWORK, SpendingOptions, network_at
from viz.cli.console import err, lines, out, say, show
from viz.cli.noticed import notices_in_words
from viz.domain.display import amount, counted, moment, prices
from viz.domain.ports.chain import Deployment
from viz.domain.units import BASE_MODEL, ZERO_ADDRESS, Units

if TYPE_CHECKING:
    from viz.buyer.asking import AskedSide
    from viz.buyer.client import BuyerClient
    from viz.protocol.market import MarketModel


@dataclass(frozen=True, slots=True)
class ProxyDoor:
    """Where the proxy listens, and who may use it; ``key_file`` is only shown."""

    host: str
    port: int
    key: str
    key_file: Path | None
    hosts: Sequence[str]
    origins: Sequence[str]

    @property
    def who(self) -> str:
        """The API key that programs must send, in words."""
        return f"the OPENAI_API_KEY in {self.key_file}" if self.key else "any OPENAI_API_KEY"

    def serving(self, side: AskedSide) -> AbstractAsyncContextManager[str]:
        """Return a context that serves the proxy, and yields its base URL."""
        from viz.buyer.proxy.proxy import running_proxy

        return running_proxy(
            side,
            host=self.host,
            port=self.port,
            key=self.key,
            hosts=self.hosts,
            origins=self.origins,
        )


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A running proxy: its messages for scripts and people, and what it asks."""

    side: AskedSide
    said: dict[str, Any]
    line: str


async def serving_until_stopped(
    serving: AbstractAsyncContextManager[RunningProxy], *, as_json: bool
) -> None:
    """Serve, print the address, and at the end what was spent and what is left."""
    import asyncio

    from viz import log

    log.configure("info")
    async with serving as running:
        if not show(running.said, as_json=as_json, runs_on=True):
            out.print(running.line, soft_wrap=True)
        try:
            await asyncio.Event().wait()
        finally:
            _print_run(await running.side.spending_report(), running.side.deployment)


@asynccontextmanager
async def serve_node(
    door: ProxyDoor,
    folder: Path | None,
    opening: AbstractAsyncContextManager[BuyerClient],
    url: str,
) -> AsyncIterator[RunningProxy]:
    """Serve the proxy of one node."""
    from viz.buyer.control.commands import ChannelControl
    from viz.buyer.control.server import serving_control
    from viz.buyer.proxy.spent_line import say_cost

    async with AsyncExitStack() as ends:
        client = await ends.enter_async_context(opening)
        side = ends.enter_context(counted_node(client, folder))
        base = await ends.enter_async_context(door.serving(side))
        control = ChannelControl(client, say_cost, side=side)
        await ends.enter_async_context(
            serving_control(control, client.directory, client.info.node, url)
        )
        said = {"url": base, "node": client.info.node, "signer": client.signer}
        yield RunningProxy(
            side, said, f"OPENAI_BASE_URL={base}  ({door.who}; it pays {client.info.node})"
        )


@asynccontextmanager
async def serve_network(
    door: ProxyDoor,
    folder: Path | None,
    deployment_file: Path | None,
    secret: str,
    rpc_url: str,
    caps: Caps,
    spending: SpendingOptions,
) -> AsyncIterator[RunningProxy]:
    """Serve the proxy of all nodes. Each channel that it opens accepts its own commands."""
    from viz.buyer.control.commands import ChannelControl
    from viz.buyer.control.server import serving_control
    from viz.buyer.ledger.network_record import NetworkFile
    from viz.buyer.network.control import NetworkControl
    from viz.buyer.network.one_node import CountedNode
    from viz.buyer.proxy.spent_line import say_cost

    def held(client: BuyerClient, url: str) -> AbstractAsyncContextManager[object]:
        control = ChannelControl(client, say_cost, side=CountedNode(client, buyer.day))
        return serving_control(control, client.directory, client.info.node, url)

    async with AsyncExitStack() as ends:
        ends.enter_context(NetworkFile(home_of(folder)).held_by_proxy())
        buyer = await ends.enter_async_context(
            network_at(folder, deployment_file, secret, rpc_url, caps, spending, held)
        )
        found = await buyer.models()
        base = await ends.enter_async_context(door.serving(buyer))
        control = NetworkControl(buyer, say_cost)
        await ends.enter_async_context(
            serving_control(control, home_of(folder), ZERO_ADDRESS, NETWORK)
        )
        nodes = {offer.node for model in found for offer in model.offers}
        yield RunningProxy(
            buyer,
            {"url": base, "nodes": sorted(nodes)},
            f"OPENAI_BASE_URL={base}  ({door.who}; it pays the nodes that serve what is asked, "
            f"{counted(len(nodes), 'node')} found)",
        )


def _print_run(found: dict[str, Any], here: Deployment) -> None:
    """Print on standard error what a proxy spent, and what is left of the deposits."""
    err.print(
        f"{counted(found['run']['requests'], 'answer')}, "
        f"{amount(int(found['run']['units']), here)} spent; "
        f"{amount(int(found['left']), here)} left of the deposit",
        markup=False,
        soft_wrap=True,
    )


def cost_words(units: Units, here: Deployment, *, billed: bool) -> str:
    """Say what an answer or its part cost, or the most that can be taken for it without a bill."""
    cost = amount(units, here)
    return f"paid {cost}" if billed else f"not billed: {cost} at most can be taken for it"


def print_parts(parts: Sequence[dict[str, Any]], here: Deployment) -> None:
    """Print who was paid for which part, if several nodes were or tokens are only bounded."""
    if len(parts) < 2 and not any(part.get("estimated") for part in parts):
        return
    for part in parts:
        cost = cost_words(int(part["cost"]), here, billed=part["billed"])
        say(
            f"  {part['node']}: {'at most ' if part.get('estimated') else ''}"
            f"{counted(part['promptTokens'], 'token')} of prompt, "
            f"{part['completionTokens']} of the answer, {cost}"
            + (", broke off" if part.get("fault") else ""),
            style="dim",
        )


def print_deposits(deposits: Sequence[dict[str, Any]], here: Deployment) -> None:
    """Print what was deposited for an answer, and where."""
    for each in deposits:
        waits = "" if each["confirmed"] else ", not confirmed yet"
        said = f"deposited {amount(int(each['amount']), here)} at {each['node']} ({each['url']})"
        say(f"  {said}, yours until you sign for it{waits}", style="dim")


def print_market(models: Sequence[MarketModel], here: Deployment) -> None:
    """Print the models of all nodes."""
    from viz.buyer.network.naming import meant_without_record, shown_ids

    if not models:
        say("No model on offer has these words.")
    ids = shown_ids(models, meant_without_record)
    for model, shown in zip(models, ids, strict=True):
        title = shown if model.name in ("", model.model) else f"{shown}: {model.name}"
        rows: list[tuple[str, object]] = []
        if model.description:
            rows.append(("knows", model.description))
        if works := [
            f"{work.title or 'untitled'}{' by ' + work.credit if work.credit else ''} "
            f"(work {work.content_id})"
            for work in model.works
        ]:
            rows.append(("works", ", ".join(works)))
        elif model.adapter_id != BASE_MODEL:
            rows.append(("works", "not named by the nodes"))
        if model.offers:
            best = model.offers[0]
            both = prices(best.prompt_price_units, best.completion_price_units, here)
            rows.append(("price", both))
            rows.append(("nodes", _nodes(model)))
        if model.retires_at_s:
            rows.append(("ends", moment(model.retires_at_s)))
        if model.card is not None and model.card.asked:
            card = model.card
            rows.append(
                (
                    "answers right",
                    f"{card.right} of {counted(card.asked, 'question')} (base: {card.base_right})",
                )
            )
        rows += [
            (f"notices at {each.node}", notices_in_words(each.notices))
            for each in model.offers
            if each.notices is not None
        ]
        lines(title, rows)


def _nodes(model: MarketModel) -> str:
    count, best = len(model.offers), model.offers[0]
    if count == 1:
        return f"{best.node} at {best.url}"
    return f"{count}; the cheapest is {best.node} at {best.url}"
