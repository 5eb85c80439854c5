"""While a proxy holds the channel, the buyer's commands go through it; nobody else's do."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from eth_account import Account
from structlog.testing import capture_logs
from tests.fakes.chain import DEPLOYMENT, FakeChain
from tests.integration.api.harness import ADAPTER, DEPOSIT, NODE_KEY, PAYER_KEY, Node
from tests.integration.buyer.conftest import PASSWORD, buying
from tests.integration.buyer.test_proxy import MODEL, Silent
from typer.testing import CliRunner, Result

from viz.buyer.client import BuyerClient
from viz.buyer.control.client import ProxyControl, find_proxies
from viz.buyer.control.commands import ChannelControl
from viz.buyer.control.server import SOCKET, serving_control
from viz.buyer.ledger.network_record import NetworkFile
from viz.buyer.proxy.proxy import running_proxy
from viz.buyer.wallet.wallet import KeyWallet, Wallet
from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.cli.main import app
from viz.domain.typed_data import RequestClose
from viz.domain.units import Units
from viz.errors import ChainUnreachable, ChannelUnknown, NodeNotTrusted, NodeUnreachable
from viz.local_socket import bound, socket_path
from viz.protocol.wire import Json

CONFIG, INPUT, PAYMENT, CHAIN = 3, 4, 5, 6
PRICES = "2 vUSD a million prompt tokens and 6 vUSD a million completion tokens"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data folder with the trusted deployment and the payer's wallet."""
    folder = tmp_path / "home"
    save_deployment(folder / "deployment.json", DEPLOYMENT)
    account = Account.from_key(PAYER_KEY)
    create_key_file(folder / "wallet.json", PASSWORD, account=account, scrypt_n=2)
    return folder


@pytest.fixture
async def client(node: Node, home: Path) -> AsyncIterator[BuyerClient]:
    async with buying(node, home / "buyer") as made:
        await made.open_channel(PAYER_KEY, DEPOSIT)
        yield made


@pytest.fixture
async def desk(client: BuyerClient, node: Node) -> AsyncIterator[ProxyControl]:
    """The commands as another process finds them."""
    async with serving_control(
        ChannelControl(client), client.directory, client.info.node, node.url
    ) as served:
        assert served
        (found,) = await find_proxies([client.directory], DEPLOYMENT)
        assert (found.node, found.url) == (client.info.node, node.url)
        yield found


async def viz(
    home: Path, words: str, *more: str, secret: str = "", rpc_url: str | None = None
) -> Result:
    """Run a command beside the proxy, as another process would."""
    given = {"VIZ_KEY_PASSWORD": secret or None, "VIZ_DATA_DIR": str(home), "VIZ_RPC_URL": rpc_url}
    with capture_logs():  # the node's, which is in this process
        return await asyncio.to_thread(CliRunner(env=given).invoke, app, [*words.split(), *more])


@pytest.mark.usefixtures("desk")
async def test_ask_and_channel_work_while_the_proxy_runs(
    client: BuyerClient, node: Node, home: Path
) -> None:
    """Asking needs no password; a deposit and a close are signed by the wallet beside the proxy."""
    at = f"--node {node.url}"
    asked = await viz(home, f"buyer ask When? --model tides {at}")
    assert asked.exit_code == 0, asked.output
    assert asked.stderr == f"asking {MODEL} (tides): {PRICES}\n"
    *_, last = asked.stdout.splitlines()
    spent = client.channel.billed_units(ADAPTER)
    assert spent > 0 and last == f"{MODEL}, paid 0.{spent:06} vUSD"

    shown = await viz(home, f"channel show --json {at}")
    assert json.loads(shown.stdout)["billed"] == str(spent), shown.output
    key = f"--key {home}/wallet.json"
    opened = await viz(home, f"channel open 0.5 {key} {at}", secret=PASSWORD)
    assert opened.exit_code == 0, opened.output
    assert client.channel.deposit_units == DEPOSIT + 500_000
    assert "1.500000 vUSD" in opened.stdout
    closed = await viz(home, f"channel close {key} {at}", secret=PASSWORD)
    assert closed.exit_code == 0 and "vUSD in all; the rest went back to 0x" in closed.stdout
    shown = await viz(home, f"channel show {at}")
    assert "empty" in shown.stdout or "not open" in shown.stdout, shown.output


@pytest.mark.usefixtures("desk")
async def test_the_only_node_that_is_known_is_meant(node: Node, home: Path) -> None:
    """Who trusted one node, or paid it, means that one. With several nothing is paid by chance."""
    key = f"--key {home}/wallet.json"
    opened = await viz(home, f"channel open 0.5 {key} --node {node.url}", secret=PASSWORD)
    assert opened.exit_code == 0, opened.output
    shown = await viz(home, "channel show --json")
    assert shown.exit_code == 0 and json.loads(shown.stdout)["deposit"] == str(DEPOSIT + 500_000)
    NetworkFile(home / "buyer").change(lambda record: record.knowing("http://127.0.0.1:9"))
    for words in (f"channel open 0.5 {key}", "channel show", f"channel close {key}"):
        refused = await viz(home, words, secret=PASSWORD)
        assert refused.exit_code == 4, refused.output
        assert f"http://127.0.0.1:9, {node.url}" in refused.stderr and "--node" in refused.stderr
    assert json.loads((await viz(home, f"channel show --json --node {node.url}")).stdout)


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("shown", [True, False, None])
async def test_a_close_beside_the_proxy_is_looked_up_on_the_chain_that_is_named(
    client: BuyerClient, node: Node, home: Path, monkeypatch: pytest.MonkeyPatch, shown: bool | None
) -> None:
    """`--rpc` was ignored, and the command then told its user to name it.

    The close is done by then: an endpoint that fails makes no failure of it.
    """
    monkeypatch.setattr("viz.buyer.channels.closing.CLOSED_WAITS_S", (0.0,))
    asked = await viz(home, f"buyer ask When? --model tides --node {node.url}")
    assert asked.exit_code == 0, asked.output
    other = FakeChain(NODE_KEY)
    other.channels.update(node.chain.channels)  # as the channel is before the close

    @asynccontextmanager
    async def chain_of(*_: object) -> AsyncIterator[tuple[object, None]]:
        if shown is None:
            raise ChainUnreachable("no answer in 20 s")
        yield node.chain if shown else other, None

    monkeypatch.setattr("viz.cli.buyer.channel._chain_of", chain_of)
    key, rpc = f"--key {home}/wallet.json", "--rpc http://127.0.0.1:9"
    closed = await viz(home, f"channel close {key} --node {node.url} {rpc}", secret=PASSWORD)
    said = " ".join(closed.stdout.split())
    assert closed.exit_code == 0, closed.output
    assert ("Only the node says so" in said and "no answer in 20 s" in said) is (shown is None)
    assert ("but your chain does not show it" in said) is (shown is False)


@pytest.mark.usefixtures("desk")
async def test_a_chain_for_all_commands_conflicts_with_no_proxy(node: Node, home: Path) -> None:
    """VIZ_RPC_URL stands in a profile; `--rpc` on a command's line is meant for that command."""
    chain = "http://127.0.0.1:9"
    shown = await viz(home, f"channel show --json --node {node.url}", rpc_url=chain)
    assert shown.exit_code == 0, shown.output
    refused = await viz(home, f"channel forgive --node {node.url} --rpc {chain}")
    assert refused.exit_code == INPUT and "its options apply" in refused.stderr


@pytest.mark.usefixtures("desk")
async def test_a_channel_is_shown_on_the_chain_that_is_named_beside_the_proxy(
    client: BuyerClient, node: Node, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was refused beside a proxy without --rpc: nobody could look what the chain has."""
    named: list[str] = []

    @asynccontextmanager
    async def chain_at(rpc: str, _: object) -> AsyncIterator[object]:
        named.append(rpc)
        yield node.chain

    monkeypatch.setattr("viz.cli.buyer.showing.own_chain", chain_at)
    words = f"channel show --json --node {node.url}"
    alone = json.loads((await viz(home, words)).stdout)
    shown = await viz(home, f"{words} --rpc http://127.0.0.1:9")
    assert shown.exit_code == 0 and named == ["http://127.0.0.1:9"], shown.output
    told = json.loads(shown.stdout)
    assert told["onChain"]["deposit"] == str(DEPOSIT) and alone["onChain"] is None
    assert {**told, "onChain": None} == alone


@pytest.mark.usefixtures("desk")
async def test_a_deposit_that_arrived_is_no_failure(
    client: BuyerClient, node: Node, home: Path
) -> None:
    """A record without money could not be written after it: the command looked as if it had failed,
    and the same command again deposited twice."""
    (home / "buyer" / "network.json").write_text("damaged")
    words = f"channel open 0.5 --key {home}/wallet.json --node {node.url} --json"
    done = await viz(home, words, secret=PASSWORD)
    assert done.exit_code == 0 and json.loads(done.stdout)["deposit"] == str(DEPOSIT + 500_000)
    assert "the deposit arrived" in done.stderr and "network.json cannot be read" in done.stderr
    assert client.channel.deposit_units == DEPOSIT + 500_000


@pytest.mark.usefixtures("desk")
async def test_a_refusal_comes_through_the_proxy_as_it_is(node: Node, home: Path) -> None:
    """The exit code and the sentence are those of the command without a proxy."""
    for words, code, said in (
        ("buyer ask hi --model gpt-9", INPUT, "unknown-model"),
        ("buyer ask hi --max-price 3", INPUT, "its options apply"),
        ("channel open 1000000 --key {0}/wallet.json", PAYMENT, "balance-too-low"),
        # Leaving needs neither the node nor the channel's files: a chain is asked.
        ("channel leave --key {0}/wallet.json --rpc http://127.0.0.1:9", CHAIN, "unreachable"),
    ):
        at = () if "leave" in words else ("--node", node.url)
        done = await viz(home, words.format(home), *at, secret=PASSWORD)
        assert done.exit_code == code and said in done.stderr, done.output
        assert done.stderr.count("\n") == 1


async def test_the_node_dialled_by_another_name_is_the_same(
    client: BuyerClient, node: Node, home: Path
) -> None:
    """The proxy is found by the node's address where the URLs differ in their spelling."""
    async with serving_control(
        ChannelControl(client), client.directory, client.info.node, "http://other:1"
    ):
        done = await viz(home, f"channel show --json --node {node.url}")
        assert json.loads(done.stdout)["signer"] == client.signer, done.output


async def test_what_a_killed_proxy_left_is_passed_over(
    client: BuyerClient, node: Node, home: Path
) -> None:
    """A socket without a process is no proxy, and the next proxy takes its place."""
    folder = os.open(client.directory, os.O_RDONLY)
    bound(folder, SOCKET).close()
    os.close(folder)
    assert await find_proxies([client.directory], DEPLOYMENT) == []
    done = await viz(home, f"channel show --node {node.url}", secret=PASSWORD)
    assert done.exit_code == CONFIG and "another process pays" in done.stderr
    async with serving_control(
        ChannelControl(client), client.directory, client.info.node, node.url
    ) as served:
        assert served and len(await find_proxies([client.directory], DEPLOYMENT)) == 1
    assert not (client.directory / SOCKET).exists()


async def test_only_the_same_user_is_served(
    desk: ProxyControl, client: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is its owner's alone, and the kernel's word on who calls decides, both ways."""
    assert stat.S_IMODE((client.directory / SOCKET).stat().st_mode) == 0o600
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    with pytest.raises(NodeUnreachable):
        await desk.show()
    folder = os.open(client.directory, os.O_RDONLY)
    connector = aiohttp.UnixConnector(socket_path(folder, SOCKET))
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.get("http://desk/desk") as response,
    ):
        assert response.status == 403
    os.close(folder)


async def test_a_caller_that_leaves_ends_the_answer(
    desk: ProxyControl, client: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C on a question: the answer that nobody waits for is left, not paid to its end."""
    began, left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def endless(*given: Any) -> AsyncIterator[Any]:
        began.set()
        try:
            yield Silent()
        finally:
            left.set()

    monkeypatch.setattr(client.api, "generate", endless)

    async def write(text: str) -> None:
        raise AssertionError(text)  # an id was named: nothing is to be told before the answer

    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    asking = asyncio.create_task(desk.ask(body, write, write))
    async with asyncio.timeout(20):
        await began.wait()
        asking.cancel()
        await left.wait()
    assert client.voucher_signer.lacks_receipts


class Liar:
    """A desk that wants the wallet to sign something else."""

    def __init__(self, client: BuyerClient, wanted: str) -> None:
        self._client = client
        self._wanted = wanted

    async def open(self, wallet: Wallet, deposit_units: Units) -> Json:
        if self._wanted == "more":
            await self._client.open_channel(wallet, deposit_units + 1)
        else:
            struct = RequestClose(self._client.signer, DEPLOYMENT.token, 1)
            await wallet.sign(self._client.voucher_signer.domain, struct)
        return {"signed": True}

    async def show(self) -> Json:
        raise ChannelUnknown("no channel")


@pytest.mark.parametrize("wanted", ["more", "another node's close"])
async def test_the_wallet_signs_what_was_asked_for_alone(
    client: BuyerClient, node: Node, wanted: str
) -> None:
    """A deposit is of the amount that was typed, into the trusted contract."""
    liar: Any = Liar(client, wanted)
    async with serving_control(liar, client.directory, client.info.node, node.url):
        (desk,) = await find_proxies([client.directory], DEPLOYMENT)
        with pytest.raises(NodeNotTrusted, match="another signature"):
            await desk.open(KeyWallet(PAYER_KEY), 5_000)
        with pytest.raises(ChannelUnknown, match="no channel"):
            await desk.show()
    assert client.channel.deposit_units == DEPOSIT


async def test_the_proxy_says_what_was_spent(client: BuyerClient, node: Node, home: Path) -> None:
    """A line an answer, an endpoint, and a command that needs no password: the same money."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "When?"}], "max_tokens": 8}
    async with running_proxy(client) as url, aiohttp.ClientSession() as http:
        with capture_logs() as logs:
            for stream in (False, True):
                async with http.post(
                    f"{url}/chat/completions", json={**body, "stream": stream}
                ) as response:
                    assert response.status == 200 and await response.read()
        paid = [line for line in logs if line["event"] == "paid"]
        spent = client.channel.billed_units(ADAPTER)
        assert len(paid) == 2 and {line["log_level"] for line in paid} == {"info"}
        assert paid[1]["left"] == f"0.{DEPOSIT - spent:06} vUSD"
        assert paid[0]["model"] == MODEL and paid[0]["cost"].endswith(" vUSD")
        async with http.get(url.removesuffix("/v1") + "/viz/v1/spending") as response:
            said = await response.json()
    assert (said["spent"], said["unlisted"], said["symbol"]) == (str(spent), "0", "vUSD")
    assert (said["run"]["requests"], said["run"]["units"]) == (2, str(spent))
    done = await viz(home, "buyer spending --json")
    (channel,) = json.loads(done.stdout)["channels"]
    assert channel["spent"] == str(spent), done.output
    assert [(each["model"], each["requests"]) for each in channel["days"]] == [(MODEL, 2)]
    table = (await viz(home, "buyer spending")).stdout
    assert f"0.{spent:06} vUSD" in table and f"0.{DEPOSIT - spent:06} vUSD left" in table


async def test_models_are_told_with_what_they_know(node: Node, home: Path) -> None:
    """A buyer chooses by name, description, works and price, without a channel or a password."""
    done = await viz(home, f"buyer models --node {node.url}")
    assert done.exit_code == 0, done.output
    assert f"{MODEL}: tides" in done.stdout and "knows tides" in done.stdout
    assert PRICES in done.stdout
    said = json.loads((await viz(home, f"buyer models --json --node {node.url}")).stdout)
    assert [model["model"] for model in said["models"]] == ["fake", MODEL]
    assert "Ask one by its id" in done.stdout
    done = await viz(home, f"buyer models nothingsuch --node {node.url}")
    assert done.stdout.strip() == "No model on offer has these words."
    assert said["symbol"] == "vUSD"
