"""Every refusal over HTTP: a stable code, one clear line, nothing charged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, NOW_S
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import (
    ADAPTER,
    OPERATOR_TOKEN,
    Buyer,
    Node,
    other,
    running_node,
)

from viz.domain.eip712 import sign_compact
from viz.domain.node_channel import PresentedVoucher
from viz.domain.units import ZERO_HASH, AdapterId
from viz.protocol import payment

CHAT = payment.CHAT_PATH


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path, engine=FakeEngine(context_tokens=256)) as running:
        yield running


def check(status: int, body: Any, code: str) -> None:
    """Check a problem's form (RFC 9457, and OpenAI's error object beside it)."""
    assert body["code"] == code, body
    assert body["type"] == f"urn:viz:problem:{code}" and body["status"] == status
    assert body["title"] and "\n" not in body["detail"] and body["instance"]
    assert body["error"]["code"] == code and body["error"]["message"] == body["detail"]


BODIES: list[tuple[str, dict[str, Any], int, str]] = [
    ("an unknown adapter", {"model": "viz-adapter-9"}, 404, "unknown-adapter"),
    ("an adapter id out of range", {"model": "viz-adapter-99999999999"}, 404, "unknown-model"),
    ("an unknown model", {"model": "gpt-5"}, 404, "unknown-model"),
    ("no model", {"model": None}, 400, "invalid-request"),
    ("an empty prompt", {"messages": [{"role": "user", "content": ""}]}, 400, "prompt-empty"),
    ("no messages", {"messages": []}, 400, "invalid-request"),
    ("a strange role", {"messages": [{"role": "god", "content": "x"}]}, 400, "invalid-request"),
    ("an image", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
     "invalid-request"),
    ("an oversized prompt", {"messages": [{"role": "user", "content": "x" * 500}]}, 413,
     "prompt-too-long"),
    ("too many tokens", {"max_tokens": 5000}, 413, "prompt-too-long"),
    ("no tokens", {"max_tokens": 0}, 400, "invalid-request"),
    ("a hot temperature", {"temperature": 3}, 400, "invalid-request"),
    ("a temperature that is text", {"temperature": "hot"}, 400, "invalid-request"),
    ("too many choices", {"n": 99}, 400, "invalid-request"),
    ("too many stops", {"stop": ["a"] * 9}, 400, "invalid-request"),
    ("top_logprobs alone", {"top_logprobs": 3}, 400, "invalid-request"),
    ("tools", {"tools": [{"type": "function"}]}, 400, "invalid-request"),
    ("a lone surrogate", {"messages": [{"role": "user", "content": "\ud800"}]}, 400,
     "invalid-request"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change", "status", "code"), BODIES, ids=[b[0] for b in BODIES])
async def test_a_bad_body_is_refused(
    node: Node, what: str, change: dict[str, Any], status: int, code: str
) -> None:
    """What cannot be served is named before money is asked for."""
    buyer = await Buyer(node).ready()
    body = buyer.chat(**change)
    answered, problem, _ = await buyer.call("POST", CHAT, body=body, headers=buyer.bearer())
    assert answered == status, problem
    check(status, problem, code)
    assert (await buyer.view()).lines == ()


RAW: list[tuple[str, bytes, int, str]] = [
    ("no body", b"", 400, "invalid-request"),
    ("not JSON", b"{", 400, "invalid-request"),
    ("not an object", b"[1]", 400, "invalid-request"),
    ("NaN", b'{"temperature": NaN}', 400, "invalid-request"),
    ("not UTF-8", b'{"model": "\xff"}', 400, "invalid-request"),
    ("deep nesting", b"[" * 60_000, 400, "invalid-request"),
    ("a huge body", b'{"model": "' + b"x" * 70_000 + b'"}', 413, "http-413"),
]


@pytest.mark.parametrize(("what", "raw", "status", "code"), RAW, ids=[r[0] for r in RAW])
async def test_bytes_that_are_no_request_are_refused(
    node: Node, what: str, raw: bytes, status: int, code: str
) -> None:
    """Whatever arrives, the answer is a problem and never a trace."""
    buyer = await Buyer(node).ready()
    async with node.http.post(node.url + CHAT, data=raw, headers=buyer.bearer()) as response:
        assert response.status == status
        check(status, await response.json(content_type=None), code)


async def test_paths_and_methods_that_do_not_exist(node: Node) -> None:
    """Also what no handler sees is answered as a problem."""
    buyer = Buyer(node)
    for method, path, status in (("GET", "/nothing", 404), ("GET", CHAT, 405)):
        answered, problem, _ = await buyer.call(method, path)
        assert answered == status
        check(status, problem, f"http-{status}")


async def test_a_request_without_money_is_told_where_to_pay(node: Node) -> None:
    """Without a token: 402 with a challenge. With one: the quote and the need as well."""
    buyer = Buyer(node)
    status, problem, headers = await buyer.call("POST", CHAT, body=buyer.chat())
    assert status == 402
    check(402, problem, "payment-required")
    challenge = payment.Challenge.from_header(headers["WWW-Authenticate"])
    assert challenge.quote is None and challenge.need is None
    await buyer.login()
    known = await buyer.need_of(buyer.chat())
    assert known.quote is not None and known.need is None
    known.quote.verify(buyer.domain, node.chain.address)
    await buyer.open()
    ready = await buyer.need_of(buyer.chat())
    assert ready.need is not None and ready.need.required_units > 0


async def test_a_token_that_is_not_ours_is_refused(node: Node) -> None:
    """An expired token is none any more, and one that this node did not give never was."""
    buyer = await Buyer(node).ready()
    node.clock.now += 3_601
    for token in ("viz_made-up", buyer.token):
        headers = {"Authorization": f"Bearer {token}"}
        status, problem, _ = await buyer.call("POST", CHAT, body=buyer.chat(), headers=headers)
        assert status == 401
        check(401, problem, "access-token-invalid")


async def test_a_session_cannot_be_replayed_or_relayed(node: Node) -> None:
    """A challenge gives one token, for this node, this origin and this signer (threat 37)."""
    buyer = Buyer(node)
    proof = await buyer.proof()
    path = payment.SESSIONS_PATH
    assert (await buyer.call("POST", path, body=proof.to_json()))[0] == 200
    session = proof.session
    cases = [
        (proof, 401, "access-token-invalid"),
        (replace(proof, session=replace(session, origin="http://evil")), 400, "wrong-domain"),
        (replace(proof, session=replace(session, node=other(session.node))), 400, "wrong-domain"),
        (replace(proof, signer=other(buyer.signer)), 401, "access-token-invalid"),
        (replace(proof, session=replace(session, challenge=ZERO_HASH)), 401,
         "access-token-invalid"),
        (replace(proof, session=replace(session, expiry_s=session.expiry_s + 9)), 401,
         "access-token-invalid"),
        (replace(await buyer.proof(), signature=b"\x01" * 64), 401, "invalid-signature"),
    ]  # fmt: skip
    for case, status, code in cases:
        answered, problem, _ = await buyer.call("POST", path, body=case.to_json())
        assert answered == status, problem
        check(status, problem, code)


Spoil = Callable[[Buyer, PresentedVoucher], PresentedVoucher]


def _resigned(buyer: Buyer, presented: PresentedVoucher, **changes: Any) -> PresentedVoucher:
    row = replace(presented.row, **changes)
    digest = buyer.domain.digest(row.voucher(buyer.node.chain.address))
    return replace(presented, row=replace(row, signature=sign_compact(buyer.key, digest)))


VOUCHERS: list[tuple[str, Spoil, int, str]] = [
    ("another chain", lambda b, o: replace(o, chain_id=1), 400, "wrong-domain"),
    ("another contract", lambda b, o: replace(o, contract=other(o.contract)), 400, "wrong-domain"),
    ("another node", lambda b, o: replace(o, node=other(o.node)), 400, "wrong-domain"),
    ("another signer", lambda b, o: replace(o, signer=other(o.signer)), 401, "invalid-signature"),
    ("a broken signature", lambda b, o: replace(o, row=replace(o.row, signature=b"\1" * 64)), 401,
     "invalid-signature"),
    ("a wrong base", lambda b, o: _resigned(b, o, base_units=5), 409, "stale-voucher"),
    ("an unknown head", lambda b, o: _resigned(b, o, receipts_head=b"\1" * 32), 409,
     "stale-voucher"),
    ("no lines", lambda b, o: _resigned(b, o, lines=()), 400, "invalid-request"),
    ("an empty line", lambda b, o: _resigned(b, o, lines=((ADAPTER, 0),)), 400, "invalid-request"),
    ("unsorted lines", lambda b, o: _resigned(b, o, lines=((ADAPTER, 9), (AdapterId(0), 9))), 400,
     "invalid-request"),
    ("an unknown adapter", lambda b, o: _resigned(b, o, lines=((ADAPTER, 1000), (AdapterId(8), 9))),
     404, "unknown-adapter"),
    ("more than the deposit", lambda b, o: _resigned(b, o, lines=((ADAPTER, 10**7),)), 402,
     "deposit-exceeded"),
    ("less than before", lambda b, o: _resigned(b, o, lines=((ADAPTER, 1),)), 409,
     "line-below-best"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "spoil", "status", "code"), VOUCHERS, ids=[v[0] for v in VOUCHERS]
)
async def test_a_bad_voucher_is_refused(
    node: Node, what: str, spoil: Spoil, status: int, code: str
) -> None:
    """A voucher that could not be claimed, or lowers a promise, changes nothing."""
    buyer = await Buyer(node).ready()
    good = buyer.voucher(ADAPTER, 1_000, 0)
    assert (await buyer.pay(payment.VOUCHERS_PATH, good))[0] == 200
    before = await buyer.view()
    answered, problem = await buyer.pay(payment.VOUCHERS_PATH, spoil(buyer, good))
    assert answered == status, problem
    check(status, problem, code)
    assert await buyer.view() == before
    if status == 409:
        assert problem["base"] == "0" and problem["best"] == [[ADAPTER, "1000"]]


DEPOSITS: list[tuple[str, dict[str, Any], int, str]] = [
    ("another chain", {"chain_id": 1}, 400, "wrong-domain"),
    ("another contract", {"contract": DEPLOYMENT.token}, 400, "wrong-domain"),
    ("too little", {"amount_units": 999}, 400, "invalid-request"),
    ("another amount", {"amount_units": 999_999}, 401, "invalid-signature"),
    ("another salt", {"salt": ZERO_HASH}, 401, "invalid-signature"),
    ("no consent of the signer", {"signer_signature": b"\1" * 65}, 401, "invalid-signature"),
    ("expired", {"valid_before_s": 5}, 400, "invalid-request"),
    ("void before a block takes it", {"valid_before_s": NOW_S + 2}, 400, "invalid-request"),
]


@pytest.mark.parametrize(
    ("what", "change", "status", "code"), DEPOSITS, ids=[d[0] for d in DEPOSITS]
)
async def test_a_bad_deposit_costs_no_gas(
    node: Node, what: str, change: dict[str, Any], status: int, code: str
) -> None:
    """Signatures are checked before anything is sent to the chain."""
    buyer = Buyer(node)
    answered, problem = await buyer.pay(payment.CHANNELS_PATH, buyer.deposit(**change))
    assert answered == status, problem
    check(status, problem, code)
    assert node.chain.sent == []


async def test_credentials_that_cannot_be_read(node: Node) -> None:
    """A credential of another form, action or method is refused by name."""
    buyer = await Buyer(node).ready()
    voucher = buyer.voucher(ADAPTER, 10, 0)
    send: list[tuple[str, dict[str, str]]] = [
        (payment.VOUCHERS_PATH, {}),
        (payment.VOUCHERS_PATH, {"Authorization": "Payment %%%"}),
        (payment.VOUCHERS_PATH, {"Authorization": "Payment e30"}),
        (payment.VOUCHERS_PATH, {"Authorization": "Payment " + "A" * 30_000}),
    ]
    for path, headers in send:
        status, problem, _ = await buyer.call("POST", path, headers=headers)
        assert status in (400, 413), problem
    for path in (payment.CHANNELS_PATH, payment.CLOSE_PATH):
        status, problem = await buyer.pay(path, voucher)
        assert status == 400
        check(400, problem, "invalid-request")


async def test_receipts_and_promises_are_private(node: Node) -> None:
    """Others see of a channel what the chain shows, no more."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    stranger = Buyer(node, key=b"\x55" * 32)
    await stranger.login()
    path = payment.CHANNEL_PATH.format(signer=buyer.signer)
    _, view, _ = await stranger.call("GET", path, headers=stranger.bearer())
    assert view["lines"] == [] and view["best"] == [] and view["deposit"] == "1000000"
    path = payment.RECEIPTS_PATH.format(signer=buyer.signer)
    status, problem, _ = await stranger.call("GET", path, headers=stranger.bearer())
    assert status == 401
    check(401, problem, "access-token-invalid")
    _, own, _ = await buyer.call("GET", path, headers=buyer.bearer())
    assert len(payment.receipts_from_json(own)) == 1


async def test_what_may_not_be_served_is_not_sold(node: Node) -> None:
    """An adapter that the chain forbids is refused before money is asked for."""
    buyer = await Buyer(node).ready()
    node.chain.unservable[ADAPTER] = "it is retired"
    answer = await buyer.ask(pays=False)
    assert answer.status == 403 and "retired" in answer.body["detail"]
    check(403, answer.body, "adapter-not-servable")


async def test_a_quote_binds_signer_adapter_and_minute(node: Node) -> None:
    """A quote is good for its signer, its adapter and its minute; the receipt names it."""
    buyer = await Buyer(node).ready()
    quote = (await buyer.need_of(buyer.chat())).quote
    assert quote is not None
    name = {payment.QUOTE_HEADER: "0x" + buyer.domain.digest(quote.quote).hex()}
    answer = await buyer.ask(headers=name)
    assert answer.receipt is not None
    assert answer.receipt.receipt.quote_hash == buyer.domain.digest(quote.quote)
    wrong = await buyer.ask(buyer.chat(model="fake"), pays=False, headers=name)
    check(400, wrong.body, "invalid-request")
    longer = await buyer.ask(buyer.chat(max_tokens=25), pays=False, headers=name)
    check(400, longer.body, "invalid-request")
    another = await Buyer(node, key=b"\x34" * 32).ready()
    check(400, (await another.ask(pays=False, headers=name)).body, "invalid-request")
    node.clock.now += 61
    late = await buyer.ask(pays=False, headers=name)
    check(409, late.body, "quote-expired")


async def test_the_operator_needs_the_token(node: Node) -> None:
    """The operator's resources are closed without the token of the file."""
    buyer = Buyer(node)
    wrong: tuple[dict[str, str], ...] = ({}, {"Authorization": "Bearer wrong"})
    for headers in wrong:
        status, problem, _ = await buyer.call("GET", "/operator/v1/status", headers=headers)
        assert status == 401
        check(401, problem, "access-token-invalid")
    headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    status, found, _ = await buyer.call("GET", "/operator/v1/status", headers=headers)
    assert status == 200 and found["channels"] == 0


async def test_an_unreachable_chain_is_said_so(node: Node) -> None:
    """A node without its chain says so and stays up."""
    buyer = await Buyer(node).ready()
    node.chain.down = True
    node.clock.now += 30
    answer = await buyer.ask(pays=False)
    check(answer.status, answer.body, "chain-unreachable")
    status, health, _ = await buyer.call("GET", "/healthz")
    assert status == 503 and health["chain"] == "chain-unreachable"
    node.chain.down = False
    node.clock.now += 2
    assert (await buyer.call("GET", "/healthz"))[0] == 200
    assert (await buyer.ask()).status == 200


async def test_a_bug_says_nothing_of_itself(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is an opaque 500 with an id."""

    def broken(*_: object) -> Awaitable[None]:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(type(node.chain), "chain_time", broken)
    status, problem, _ = await Buyer(node).call("GET", payment.NODE_PATH)
    assert status == 500 and "secret" not in str(problem)
    check(500, problem, "internal")
