"""Who has paid nothing: what is read of them, what they can cause, and what they are told."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Connection
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import ADAPTER, OPERATOR_TOKEN, Buyer, Node, running_node
from typer.testing import CliRunner

from viz.api import bodies, client_address
from viz.api.bodies import MAX_BODY_VALUES, STRANGER_BODY_BYTES
from viz.api.client_address import FORWARDED, X_FORWARDED_FOR
from viz.api.context import LOGINS, PAYMENTS, QUESTIONS, ApiLimits
from viz.api.rate_limit import ALL_TIMES, RateLimit
from viz.cli.main import app
from viz.domain.ports.ledger import TOKENS_EACH, AccessRecord
from viz.domain.units import Hash32
from viz.errors import (
    BlobNotFound,
    ChainError,
    ChainUnreachable,
    ConfigError,
    EngineError,
    StorageError,
    StoreError,
    StoreFull,
    VizError,
)
from viz.protocol import payment
from viz.services.payments.sessions import CHALLENGE_VALID_S

CHAT = payment.CHAT_PATH
OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
LARGE = ApiLimits(
    trusted_proxies=(ipaddress.ip_network("127.0.0.1/32"), ipaddress.ip_network("10.0.0.0/8"))
)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(
        tmp_path, limits=LARGE, engine=FakeEngine(context_tokens=200_000)
    ) as running:
        yield running


# bodies


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-1"}, {"Authorization": "x"}])
@pytest.mark.parametrize("body", [b"", b"{", b"[" * 2_000_000, b'{"model": "gpt-5"}'])
async def test_an_unpaid_body_is_not_judged(
    node: Node, headers: dict[str, str], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who bears no token of ours is told the price, whatever the body: it is not even read."""
    monkeypatch.setattr(bodies, "parse_json", lambda *_, **__: pytest.fail("it was parsed"))
    async with node.http.post(node.url + CHAT, data=body, headers=headers) as answer:
        assert answer.status == 402
        assert (await answer.json(content_type=None))["code"] == "payment-required"


async def test_much_is_read_of_who_has_a_deposit(node: Node) -> None:
    """A session costs nothing, so it buys no large body; a deposit does, up to the bound."""
    buyer = Buyer(node)
    await buyer.login()
    long = buyer.chat("x" * (STRANGER_BODY_BYTES + 1))
    status, problem, _ = await buyer.call("POST", CHAT, body=long, headers=buyer.bearer())
    assert (status, problem["code"]) == (402, "payment-required")
    assert str(STRANGER_BODY_BYTES) in problem["detail"]
    assert (await buyer.need_of(buyer.chat())).need is None
    await buyer.open()
    node.clock.now += 5
    assert (await buyer.ask(long)).text


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 16_384):
        yield body[start : start + 16_384]


@pytest.mark.parametrize(
    "path", [payment.SESSIONS_PATH, payment.SESSION_CHALLENGE_PATH, "/viz/v1/contents"]
)
async def test_of_a_stranger_little_is_read(node: Node, path: str) -> None:
    """Neither a stated length nor chunks bring more than the bound into memory."""
    body = b'{"signer": "' + b"x" * STRANGER_BODY_BYTES + b'"}'
    bodies_sent: tuple[Any, ...] = (body, chunked(body))
    for sent in bodies_sent:
        async with node.http.post(node.url + path, data=sent) as answer:
            assert answer.status == 413
            assert (await answer.json(content_type=None))["code"] == "http-413"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":[' + b"{}," * MAX_BODY_VALUES + b"0]}",
        b'{"model":[' + b'"a",' * MAX_BODY_VALUES + b"0]}",
        b'{"model":[' + b"[[[]]]," * MAX_BODY_VALUES + b"0]}",
        b"{" + b",".join(b'"%d":1e9' % number for number in range(MAX_BODY_VALUES)) + b"}",
        b'{"seed":' + b"9" * 4_000 + b"}",
    ],
    ids=["objects", "strings", "lists", "members", "digits"],
)
async def test_a_buyers_body_of_a_million_pieces_is_refused(node: Node, body: bytes) -> None:
    """Also who has paid cannot hold the loop with a body that takes long to take apart."""
    buyer = await Buyer(node).ready()
    async with node.http.post(node.url + CHAT, data=body, headers=buyer.bearer()) as answer:
        said = await answer.json(content_type=None)
    assert (answer.status, said["code"]) == (400, "invalid-request") and "bound" in said["detail"]


# sessions


async def rows(node: Node) -> int:
    def count(connection: Connection) -> int:
        return int(connection.exec_driver_sql("select count(*) from access_tokens").scalar_one())

    return await node.store._db.read(count)


async def test_strangers_sessions_write_nothing(node: Node) -> None:
    """Keys cost nothing: only who opened a channel gets rows that vouchers would wait for."""
    for _ in range(20):
        stranger = Buyer(node, key=secrets.token_bytes(32))
        await stranger.login()
        assert (await stranger.call("POST", CHAT, headers=stranger.bearer()))[0] == 400
    assert await rows(node) == 0
    buyer = await Buyer(node).ready()
    assert await rows(node) == 1
    first = buyer.token
    for _ in range(TOKENS_EACH + 3):
        node.clock.now += 1
        await buyer.login()
    assert await rows(node) <= TOKENS_EACH + 1
    assert (await buyer.ask()).text
    buyer.token = first
    assert (await buyer.ask(pays=False)).status == 401, "the oldest gave way"


async def test_a_session_of_before_the_deposit_is_written_down_after_it(tmp_path: Path) -> None:
    """A buyer that signed in first keeps its session over a restart, as its answers rest on it."""
    async with running_node(tmp_path) as node:
        buyer = Buyer(node)
        await buyer.login()
        assert await rows(node) == 0
        await buyer.open()
        assert (await buyer.ask()).text
        chain = node.chain
    async with running_node(tmp_path, chain=chain) as again:
        buyer.node = again
        assert (await buyer.ask()).text


async def test_a_challenge_is_answered_soon_or_not_at_all(node: Node) -> None:
    """What was answered is remembered only as long as it could be answered again."""
    buyer = Buyer(node)
    proof = await buyer.proof()
    node.clock.now += CHALLENGE_VALID_S
    status, problem, _ = await buyer.call("POST", payment.SESSIONS_PATH, body=proof.to_json())
    assert (status, problem["code"]) == (401, "access-token-invalid")


async def test_sessions_are_counted_apart(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signing in again and again uses up nobody's looks or payments, and ends."""
    monkeypatch.setitem(node.app._state, LOGINS, RateLimit(node.clock, 3))
    statuses = []
    for _ in range(5):
        stranger = Buyer(node, key=secrets.token_bytes(32))
        proof = await stranger.proof()
        said = await stranger.call("POST", payment.SESSIONS_PATH, body=proof.to_json())
        statuses.append(said[0])
    assert statuses == [200] * 3 + [429] * 2
    await Buyer(node).open()


async def test_invented_tokens_are_looked_up_a_few_times(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who guesses does not keep the ledger's readers busy, nor a buyer with a token out."""
    buyer = await Buyer(node).ready()
    looked_up, look = 0, node.store.access

    async def counted(name: Hash32) -> AccessRecord | None:
        nonlocal looked_up
        looked_up += 1
        return await look(name)

    monkeypatch.setattr(node.store, "access", counted)
    monkeypatch.setitem(node.app._state, LOGINS, RateLimit(node.clock, 5))
    statuses = []
    for number in range(20):
        headers = {"Authorization": f"Bearer viz_{number}"}
        statuses.append((await buyer.call("POST", CHAT, headers=headers))[0])
    assert statuses == [401] * 5 + [429] * 15 and looked_up == 5
    assert (await buyer.ask()).text


async def test_a_buyer_is_known_after_a_restart(tmp_path: Path) -> None:
    """Who paid before the node was restarted is not counted among strangers."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        await buyer.ask()
        assert not node.parts.vouchers.has_paid(Buyer(node, key=b"\x66" * 32).signer)
    async with running_node(tmp_path, chain=node.chain) as again:
        assert again.parts.vouchers.has_paid(buyer.signer)


async def test_naming_a_payer_spares_nobody_the_count(node: Node) -> None:
    """A forged voucher or session in a payer's name is counted like any stranger's request."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    presented = buyer.voucher(ADAPTER, 50_000, buyer.channel.settled_units)
    forged = replace(presented, row=replace(presented.row, signature=bytes(64)))
    assert node.parts.vouchers.payer_behind(presented) == buyer.signer
    proof = await buyer.proof()
    assert node.parts.vouchers.payer_behind(proof) == buyer.signer
    node.app[PAYMENTS]._per_minute = node.app[LOGINS]._per_minute = 6
    answers = [(await buyer.pay(payment.VOUCHERS_PATH, forged))[0] for _ in range(9)]
    assert answers[0] == 401 and answers[-1] == 429
    lie = replace(proof, signature=bytes(64)).to_json()
    answers = [(await buyer.call("POST", payment.SESSIONS_PATH, body=lie))[0] for _ in range(9)]
    assert answers[0] == 401 and answers[-1] == 429
    assert (await buyer.pay(payment.VOUCHERS_PATH, presented))[0] == 200
    assert (await buyer.call("POST", payment.SESSIONS_PATH, body=proof.to_json()))[0] == 200


async def test_a_nearly_full_disk_is_no_health(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sale is refused then: who watches the node must see it."""

    def full() -> None:
        raise StoreFull("the ledger's disk is nearly full")

    monkeypatch.setattr(node.store, "require_room", full)
    status, found, _ = await Buyer(node).call("GET", "/healthz")
    assert (status, found["ledger"]) == (503, "store-full")


async def test_a_failing_loop_is_named_to_the_operator_alone(node: Node, tmp_path: Path) -> None:
    """A stranger learns that something is amiss; only the operator, what and since when."""

    async def fails() -> None:
        raise StoreFull("no room for the books")

    supervised = asyncio.create_task(node.parts.supervisor.run("books", fails))
    await asyncio.sleep(0)
    token = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    buyer = Buyer(node)
    status, found, _ = await buyer.call("GET", "/healthz")
    assert (status, found["loops"]) == (200, "degraded") and "failing" not in found
    _, found, _ = await buyer.call("GET", "/healthz", headers=token)
    failing = {"books": {"since": node.clock.now_s(), "error": "no room for the books"}}
    assert found["failing"] == failing
    _, found, _ = await buyer.call("GET", "/operator/v1/status", headers=token)
    assert found["failing"] == failing
    (tmp_path / "operator.token").write_text(OPERATOR_TOKEN, encoding="utf-8")
    words = ["status", "--node", node.url, "--data-dir", str(tmp_path)]
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert "books fails since" in done.stdout and "no room for the books" in done.stdout
    supervised.cancel()


# looks


async def test_watching_asks_the_chain_once_for_everybody(node: Node) -> None:
    """Health, the node's own entry and the same works and adapters are read once in a while."""
    looks = ["/healthz", "/metrics", payment.NODE_PATH, f"/viz/v1/adapters/{ADAPTER}"]
    looks += ["/viz/v1/adapters/99", "/viz/v1/contents/3"]
    looks.append(payment.CHANNEL_PATH.format(signer=Buyer(node).signer))
    await Buyer(node).call("GET", payment.NODE_PATH)
    for path, reads in zip(looks, (1, 0, 0, 1, 1, 1, 2), strict=True):
        before = node.chain.reads
        for _ in range(3):
            await asyncio.gather(*(node.http.head(node.url + path) for _ in range(30)))
        assert node.chain.reads - before == reads, path
    node.clock.now += 30
    before = node.chain.reads
    assert (await Buyer(node).call("GET", "/healthz"))[0] == 200
    assert node.chain.reads == before + 1


async def test_a_look_that_fails_is_not_repeated_at_once(node: Node) -> None:
    """An endpoint that is down is not asked by every stranger."""
    node.chain.down = True
    before = node.chain.reads
    for _ in range(10):
        status, problem, _ = await Buyer(node).call("GET", "/viz/v1/contents/3")
        assert (status, problem["code"]) == (503, "chain-unreachable")
    assert node.chain.reads == before + 1
    node.chain.down = False
    node.clock.now += 2
    assert (await Buyer(node).call("GET", "/viz/v1/contents/3"))[1]["code"] == "license"


async def test_ten_addresses_lock_out_nobody(node: Node) -> None:
    """A newcomer looks at the node and opens a channel while others use up every minute."""
    for number in range(ALL_TIMES):
        for budget in (QUESTIONS, PAYMENTS, LOGINS):
            for _ in range(600):
                node.app[budget].admit(f"198.51.100.{number}")
    newcomer = await Buyer(node).ready()
    assert (await newcomer.call("GET", payment.NODE_PATH))[0] == 200
    assert (await newcomer.ask()).text


# addresses


async def asked_as(node: Node, monkeypatch: pytest.MonkeyPatch, *forwarded: dict[str, str]) -> int:
    """Return how many addresses the node takes these requests to come from."""
    counted: set[str] = set()
    monkeypatch.setattr(RateLimit, "admit", lambda _, address, weight: counted.add(address))
    for headers in forwarded:
        unread = secrets.randbelow(2**40)
        await Buyer(node).call("GET", f"/viz/v1/contents/{unread}", headers=headers)
    return len(counted)


async def test_a_trusted_proxys_clients_are_told_apart(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the recommended proxy strangers are not one address; a /64 of IPv6 is one."""
    xff, forwarded = "X-Forwarded-For", "Forwarded"
    apart = ({xff: "203.0.113.1"}, {xff: "203.0.113.2"}, {xff: "[2001:db8::1]:4711"})
    assert await asked_as(node, monkeypatch, *apart) == 3
    one = (
        {xff: "203.0.113.1"},
        {xff: "198.51.100.9, 203.0.113.1"},  # the first is what the client made up
        {xff: "203.0.113.1, 10.1.2.3"},  # the last is another proxy of ours
        {xff: "203.0.113.1:5555"},
        {xff: "::ffff:203.0.113.1"},
        # What the client wrote in the header that the proxy only passes on.
        *({xff: "203.0.113.1", forwarded: f"for=198.51.100.{n}"} for n in range(3)),
        {xff: "203.0.113.1", forwarded: "for=127.0.0.1"},
    )
    assert await asked_as(node, monkeypatch, *one) == 1
    same = ({xff: "2001:db8:1:2::1"}, {xff: "2001:db8:1:2:ffff::9"})
    assert await asked_as(node, monkeypatch, *same) == 1
    nonsense = ({xff: "unknown"}, {forwarded: "for=_hidden"}, {xff: "9" * 5_000}, {xff: ",,,"})
    assert await asked_as(node, monkeypatch, *nonsense) == 1


@pytest.mark.parametrize("header", [X_FORWARDED_FOR, FORWARDED])
async def test_a_second_header_gives_a_client_no_second_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    """Protects this machine's programs: a client's own header made it count as the proxy."""
    monkeypatch.setattr(client_address, "_told_s", [-1e9])
    told: list[str] = []
    monkeypatch.setattr(client_address._log, "warning", lambda event, **_: told.append(event))
    shapes = {X_FORWARDED_FOR: "203.0.113.{}", FORWARDED: 'proto=https;for="203.0.113.{}:4711"'}
    by_proxy = shapes.pop(header)
    [(other, by_client)] = shapes.items()
    async with running_node(tmp_path, limits=replace(LARGE, forwarded_header=header)) as node:
        one = [{header: by_proxy.format(9), other: by_client.format(n)} for n in range(3)]
        assert await asked_as(node, monkeypatch, {header: by_proxy.format(9)}, *one) == 1
        apart = [{header: by_proxy.format(n)} for n in range(3)]
        assert await asked_as(node, monkeypatch, *apart) == 3 and told == []
        misread = [{other: by_client.format(n)} for n in range(3)]
        assert await asked_as(node, monkeypatch, *misread) == 1
        assert len(told) == 1 and "Set api.forwarded_header, if the proxy adds" in told[0]


async def test_an_untrusted_header_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can write a header: without the setting it makes no second address."""
    async with running_node(tmp_path) as node:
        many = tuple({"X-Forwarded-For": f"203.0.113.{n}"} for n in range(5))
        assert await asked_as(node, monkeypatch, *many) == 1


async def test_a_forwarded_request_is_not_the_operators(tmp_path: Path) -> None:
    """A proxy on this machine that forwards /operator does not make the world local."""
    for limits in (ApiLimits(), LARGE):
        async with running_node(tmp_path, limits=limits) as node:
            for header in ({"X-Forwarded-For": "203.0.113.1"}, {"Forwarded": "for=127.0.0.1"}):
                status, _, _ = await Buyer(node).call(
                    "GET", "/operator/v1/status", headers=OPERATOR | header
                )
                assert status == 401
            assert (await Buyer(node).call("GET", "/operator/v1/status", headers=OPERATOR))[
                0
            ] == 200


# what is told


def quoting(error: VizError) -> VizError:
    error.quotes = True
    return error


INSIDE = [
    ChainUnreachable("the chain at http://rpc.internal:8545 cannot be reached (no answer in 20 s)"),
    StorageError("Kubo at /ip4/10.0.0.5/tcp/5001 refused: blockstore: /var/lib/kubo/blocks"),
    StorageError("HTTPConnectionPool(host='10.0.0.5', port=5001): refused"),
    BlobNotFound("Kubo does not have it: dial tcp: lookup kubo.internal on [fd00::1]:53: no host"),
    EngineError("the server refuses this request: gpu-7.corp.internal:8000, [FD00::1%eth0]:80"),
    quoting(ChainError("the chain at gpu-7 refused eth_call: project of kubo.internal is over")),
    ConfigError("rpc.internal:8545 and [FD00::1%eth0]:8000 are odd, fd00::1 too"),
    StoreError("/srv/viz/ledger.sqlite cannot be read: disk I/O error"),
]


@pytest.mark.parametrize("error", INSIDE, ids=lambda error: error.detail[:24])
async def test_strangers_are_not_told_what_is_behind_the_node(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: VizError
) -> None:
    """Addresses and paths stay in the log; the operator, asking for itself, is told."""

    async def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(node.chain, "content", fail)
    monkeypatch.setattr(node.store, "channels", fail)
    async with node.http.get(node.url + "/viz/v1/contents/3") as answer:
        told = await answer.text()
    assert answer.status == error.status
    secrets = ("rpc.internal", "8545", "10.0.0.5", "/var/lib", "/srv", "ledger.sqlite")
    for secret in (*secrets, "kubo.internal", "gpu-7", "fd00"):
        assert secret not in told.lower()
    _, problem, _ = await Buyer(node).call("GET", "/operator/v1/channels", headers=OPERATOR)
    assert problem["detail"] == str(error)


async def metrics_of(node: Node, **headers: str) -> dict[str, float]:
    async with node.http.get(node.url + "/metrics", headers=headers) as response:
        assert response.status == 200
        text = await response.text()
    assert "_created" not in text
    return {
        each.name + "".join(f"{{{value}}}" for value in each.labels.values()): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


async def test_strangers_see_that_the_node_runs_and_nothing_of_its_income(node: Node) -> None:
    """How much is asked here is what is earned here; that it runs is anybody's to know."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    seen = await metrics_of(node)
    assert seen == {
        "viz_up{node}": 1,
        "viz_up{chain}": 1,
        "viz_up{ledger}": 1,
        "viz_up{clock}": 1,
        "viz_up{loops}": 1,
        "viz_connections_refused_total": 0,
    }
    node.chain.down = True
    node.clock.now += 2
    assert (await metrics_of(node))["viz_up{chain}"] == 0
    assert await metrics_of(node, Authorization="Bearer wrong") != {}
    assert "viz_billed_units_total" not in await metrics_of(node, Authorization="Bearer wrong")


async def test_the_operator_sees_money_trainings_and_the_chain(node: Node) -> None:
    """Each figure is that of the ledger and of the chain, and one that fails hides no other."""
    buyer = await Buyer(node).ready()
    answer = await buyer.ask()
    assert answer.receipt is not None
    node.chain.clock.now += 7
    seen = await metrics_of(node, **OPERATOR)
    (channel,) = await node.store.channels()
    assert seen["viz_billed_units_total"] == answer.receipt.receipt.amount_units
    assert seen["viz_receipted_units"] == answer.receipt.receipt.amount_units
    assert seen["viz_unclaimed_units"] == sum(channel.unclaimed().values()) > 0
    assert (seen["viz_channels"], seen["viz_receipts"]) == (1, 1)
    assert seen["viz_trainings{queued}"] == 0 and "viz_trainings{done}" in seen
    assert seen["viz_chain_head_block"] == (await node.chain.head()).number
    assert seen["viz_chain_head_age_seconds"] == 0
    assert seen["viz_balance_units"] == node.chain.balances.get(node.chain.address, 0)
    node.chain.down = True
    node.clock.now += 6
    seen = await metrics_of(node, **OPERATOR)
    assert "viz_chain_head_block" not in seen and seen["viz_channels"] == 1
