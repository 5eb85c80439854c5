"""An answer replayed: the sold weights give it, and no others do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.tiny_base import make_tiny_base, random_adapter, write_random_adapter

from viz.api.openai.request import read_chat, read_completion
from viz.audit.answer_audit import AnswerAudit, Judge, audit_answer, require_weights
from viz.basemodel.adapter_file import write_adapter
from viz.basemodel.source import LoadedBase
from viz.domain.answer_replay import MARGIN_NATS, fewest_tokens, replay
from viz.domain.eip712 import public_address, settlement_domain, sign_compact
from viz.domain.ports.chain import AdapterState
from viz.domain.ports.engine import GenerationRequest
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.typed_data import Receipt
from viz.domain.units import ZERO_ADDRESS, ZERO_HASH, AdapterId, Cid, Hash32
from viz.domain.usage import UsageLine, usage_hash
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings
from viz.errors import InvalidRequest
from viz.protocol.answer_evidence import AnswerEvidence
from viz.protocol.payment import CHAT_PATH, COMPLETIONS_PATH

KEY = b"\x11" * 32
NODE = public_address(KEY)
DOMAIN = settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement)
SOLD, OTHER, SCALED = AdapterId(7), AdapterId(8), AdapterId(9)
NONE = AdapterId(0)
SALT = Hash32(b"\x05" * 32)
TOKENS = 48
CHAT: dict[str, Any] = {
    "model": f"viz-adapter-{SOLD}",
    "messages": [{"role": "user", "content": "When is the lamp lit?"}],
    "max_tokens": TOKENS,
    "temperature": 0,
}


@dataclass
class Shop:
    """A base, the file of the sold adapter, and an engine with other adapters too."""

    base: LoadedBase
    sold: Path
    engine: EmbeddedEngine

    async def answer(self, adapter_id: AdapterId, body: dict[str, Any] | None = None) -> Evidence:
        """Return the record of an answer of these weights, billed as the sold adapter's."""
        body = body or CHAT
        raw = json.dumps(body).encode()
        asked = read_chat(body, max_choices=1)
        prompt = self.base.tokenizer.render(asked.prompt)  # type: ignore[arg-type]
        request = GenerationRequest("r", prompt, adapter_id, asked.sampling)
        text, finish = "", ""
        async for piece in await self.engine.generate(request):
            text += piece.text
            finish = piece.finish_reason or finish
        return evidence(self.base, raw, text, finish, len(prompt))

    def judge(self, **changes: Any) -> Judge:
        return Judge(self.base, self.sold, **changes)


Evidence = AnswerEvidence


def evidence(
    base: LoadedBase, body: bytes, text: str, finish: str, prompt_tokens: int, **changes: Any
) -> AnswerEvidence:
    lines = (UsageLine(SOLD, 10),)
    receipt = Receipt(
        ZERO_HASH, 1, usage_hash(lines), ZERO_HASH, salted_hash(SALT, body),
        salted_hash(SALT, text.encode()), prompt_tokens, base.tokenizer.count(text), 10, 10, 100,
    )  # fmt: skip
    receipt = replace(receipt, **changes)
    signed = SignedReceipt(receipt, lines, SALT, SALT, sign_compact(KEY, DOMAIN.digest(receipt)))
    return AnswerEvidence(
        NODE, DEPLOYMENT.chain_id, DEPLOYMENT.settlement, CHAT_PATH, body, text, finish, signed
    )


@pytest_asyncio.fixture(params=["float32", "native"])
async def shop(
    request: pytest.FixtureRequest, base: LoadedBase, tmp_path: Path
) -> AsyncIterator[Shop]:
    """One engine for each of its two compute paths; the judge's is torch in float32."""
    settings = EngineSettings(
        max_streams=2, context_tokens=256, compute=request.param, threads=1,
        compile=request.param == "native",
    )  # fmt: skip
    engine = await EmbeddedEngine.start(base, settings)
    sold = tmp_path / "sold.safetensors"
    write_random_adapter(sold, base, rank=4, seed=3)
    other = tmp_path / "other.safetensors"
    write_random_adapter(other, base, rank=4, seed=4)
    scaled = tmp_path / "scaled.safetensors"
    tensors = random_adapter(base.shape, rank=4, seed=3)
    write_adapter(scaled, tensors, rank=4, alpha=2.0 * 4 * 0.8, base=base.digest)
    for adapter_id, path in ((SOLD, sold), (OTHER, other), (SCALED, scaled)):
        await engine.add_adapter(adapter_id, path)
    try:
        yield Shop(base, sold, engine)
    finally:
        await engine.close()


def audited(record: AnswerEvidence, judge: Judge) -> AnswerAudit:
    asked = read_chat(json.loads(record.body), max_choices=8)
    return audit_answer(record, asked, judge, DOMAIN)


@pytest.mark.compiles
async def test_the_sold_weights_give_the_answer_on_either_path(shop: Shop) -> None:
    """Byte for byte, whichever of the engine's two paths the node ran; so does a longer prompt."""
    for body in (CHAT, {**CHAT, "messages": [{"role": "user", "content": "Why? " * 30}]}):
        found = audited(await shop.answer(SOLD, body), shop.judge())
        assert (found.verdict, found.findings, found.missing) == ("reproduced", [], [])
        assert found.replayed is not None and found.replayed.tokens >= TOKENS // 2
        assert found.replayed.largest_nats <= MARGIN_NATS


@pytest.mark.compiles
@pytest.mark.parametrize("served", [OTHER, NONE, SCALED], ids=["other", "no adapter", "scaled"])
async def test_a_node_that_answers_with_other_weights_is_caught(
    shop: Shop, served: AdapterId
) -> None:
    """Another adapter, the bare base, the adapter at four fifths of its strength."""
    found = audited(await shop.answer(served), shop.judge())
    assert found.verdict == "different"
    assert any("did not give this text" in finding for finding in found.findings), found.findings


@pytest.mark.parametrize("shop", ["float32"], indirect=True)
async def test_where_an_answer_ends_is_judged_by_what_is_signed(shop: Shop) -> None:
    """Half an answer is no success whatever its record calls it, and convicts nobody, since no
    signature covers the word. More than was asked for, and text beyond a stop string, are signed.
    """
    record = await shop.answer(SOLD)
    assert record.finish == "length"

    def sold(text: str, finish: str, **asked: Any) -> AnswerAudit:
        raw = json.dumps({**CHAT, **asked}).encode()
        prompt = record.receipt.receipt.prompt_tokens
        return audited(evidence(shop.base, raw, text, finish, prompt), shop.judge())

    assert sold(record.text, "length").verdict == "reproduced"
    half = record.text[: len(record.text) // 2]
    for finish in ("length", "stop", ""):
        found = sold(half, finish)
        assert (found.verdict, found.findings) == ("inconclusive", []), found
        assert "the rest of the answer" in found.missing[0]
    for finish, said in (("stop", "No signature covers"), ("", "why the answer ended")):
        found = sold(record.text, finish)
        assert (found.verdict, found.findings) == ("inconclusive", []), found
        assert said in found.missing[0]
    found = sold("When is the lamp lit? " * 4, "length", max_tokens=10)
    assert found.verdict == "different" and "the request permits 10" in found.findings[0]
    assert "\ufffd" in record.text, "whose bytes are lost, and so the least number of its tokens"
    found = sold(record.text, "length", max_tokens=10)
    assert (found.verdict, found.findings) == ("inconclusive", [])
    found = sold(record.text, "stop", stop=[record.text[3:6]])
    assert found.verdict == "different" and "stop string" in found.findings[0]


class Table:
    """A model whose choices are given: place by place, the tokens with their probabilities."""

    def __init__(self, *rows: dict[int, float]) -> None:
        self._rows: Iterator[dict[int, float]] = iter(rows)
        self._row = next(self._rows)

    def best(self) -> int:
        return max(self._row, key=self._row.__getitem__)

    def logprob(self, token: int) -> float:
        return self._row.get(token, -20.0)

    def ranked(self) -> Iterator[int]:
        return iter(sorted(self._row, key=lambda token: -self._row[token]))

    def push(self, token: int) -> None:
        self._row = next(self._rows, {END: 0.0})


END = 0
LETTERS = {1: b"a", 2: b"b", 3: b"ab", 4: "é".encode()[:1], 5: "é".encode()[1:]}


def forced(text: str, *rows: dict[int, float], **asked: Any) -> Any:
    return replay(text, Table(*rows), LETTERS, (END,), most_tokens=10, **asked)


def test_a_text_is_spelled_by_what_the_model_would_say() -> None:
    """Also in tokens that are not the canonical ones, and in parts of a character."""
    assert forced("ab", {1: -0.1, 3: -2.0}, {2: -0.1}).gaps == []
    assert forced("ab", {3: -0.1, 1: -2.0}).tokens == 1
    assert forced("é", {4: -0.1}, {5: -0.1}).gaps == []
    assert forced("\ufffd", {4: -0.1}).gaps == [], "a character that was cut off at the end"


def test_a_gap_is_how_much_likelier_another_token_was() -> None:
    found = forced("b", {1: -0.1, 2: -0.6, 3: -0.2})
    assert [(gap.place, round(gap.nats, 6)) for gap in found.gaps] == [(0, 0.5)]
    assert (found.gaps[0].chosen, found.gaps[0].likelier) == ("b", "a")


def test_an_answer_that_was_cut_off_and_called_finished_is_seen() -> None:
    """A node could sell half an answer for a whole one. It is no gap, which would convict: a buyer
    that left makes an honest node sign half an answer too."""
    found = forced("a", {1: -0.1}, {2: -0.1, END: -3.0}, limit=2)
    assert (found.end, round(found.end_gap.nats, 6), found.gaps) == ("", 2.9, [])
    assert forced("a", {1: -0.1}, {END: -0.1, 2: -3.0}).end == "model"
    assert forced("a", {1: -0.1}, {2: -0.1}, limit=1).end == "length"


def test_a_stop_string_ends_an_answer_also_inside_a_token() -> None:
    """The model's next tokens spell the stop string, so the text is whole, and no token of it is
    another one than the likeliest."""
    plain = forced("a", {1: -0.1}, {2: -0.1}, {1: -0.1}, stops=("ba",))
    inside = forced("a", {3: -0.1, 1: -3.0}, {1: -0.1}, stops=("ba",))
    for found in (plain, inside):
        assert (found.end, found.gaps) == ("stop", [])
    assert forced("a", {3: -0.1, 1: -3.0}, stops=("x",)).gaps, "no stop string cut this token"
    left = forced("a", {3: -0.1, 1: -3.0}, {2: -0.1}, stops=("ba",))
    assert (left.end, left.gaps) == ("", []), "a buyer left while the node held the text back"


def test_the_fewest_tokens_of_a_text_are_a_bound_that_no_choice_passes() -> None:
    assert fewest_tokens("abab", LETTERS.values()) == 2
    assert fewest_tokens("aab", LETTERS.values()) == 2
    assert fewest_tokens("", LETTERS.values()) == 0
    long = [*LETTERS.values(), b"a" * 99, b"bbab"]
    assert fewest_tokens("aab" * 8, long) == 16, "a long token spells none of it"
    assert fewest_tokens("aabb", long) == 3 and fewest_tokens("aabba", long) == 3, "cut off"
    assert fewest_tokens("axa", LETTERS.values()) <= 2, "what no token spells costs nothing here"


def test_a_text_that_no_token_spells_is_impossible() -> None:
    assert forced("x", {1: -0.1}).impossible
    assert forced("a" * 11, *({1: -0.1} for _ in range(11))).impossible, "more than is forced"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


SHORT: dict[str, Any] = {**CHAT, "max_tokens": 3}


def record_of(base: LoadedBase, body: dict[str, Any] = SHORT, **changes: Any) -> AnswerEvidence:
    prompt = base.tokenizer.render(CHAT["messages"])
    count = changes.pop("prompt_tokens", len(prompt))
    return evidence(base, json.dumps(body).encode(), "abc", "length", count, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"request_hash": ZERO_HASH}, "for another request"),
        ({"response_hash": ZERO_HASH}, "for another text"),
        ({"amount_units": 11}, "do not sum to its amount"),
        ({"prompt_tokens": 1}, "1 were billed"),
        ({"completion_tokens": 4}, "the answer has 3 tokens, and 4 were billed"),
    ],
)
def test_a_receipt_that_is_not_the_record_s_is_found(
    base: LoadedBase, changes: dict[str, Any], said: str
) -> None:
    """Before the model is asked: what is not signed proves nothing about the node."""
    found = audited(record_of(base, **changes), Judge(base, None))
    assert found.verdict == "different" and found.replayed is None
    assert any(said in finding for finding in found.findings), found.findings


def test_a_record_that_somebody_else_signed_or_with_more_in_it_is_found(base: LoadedBase) -> None:
    record = record_of(base)
    other = replace(record, node=public_address(b"\x12" * 32))
    assert "not signed by the node" in audited(other, Judge(base, None)).findings[0]
    read = AnswerEvidence.read(json.dumps({**record.to_json(), "compute": "cuda"}).encode())
    assert "member 'compute'" in audited(read, Judge(base, None)).findings[0]
    assert AnswerEvidence.read(json.dumps(record.to_json()).encode()) == record


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.7}, "drawn by chance"),
        ({"temperature": None}, "drawn by chance"),
        ({"n": 2}, "asks for several"),
    ],
)
def test_what_was_drawn_by_chance_proves_nothing(
    base: LoadedBase, change: dict[str, Any], said: str
) -> None:
    """Neither for the node nor against it: never exit code 0."""
    found = audited(record_of(base, {**CHAT, **change}), Judge(base, None))
    assert found.verdict == "inconclusive" and found.findings == []
    assert said in found.missing[0]


def test_an_answer_that_was_billed_as_another_model_s_is_found(base: LoadedBase) -> None:
    body = {**CHAT, "model": f"viz-adapter-{OTHER}"}
    found = audited(record_of(base, body), Judge(base, None))
    assert "adapter 7 was billed" in found.findings[0]


def test_the_auditor_decides_what_the_same_processor_is(base: LoadedBase) -> None:
    """With the same class no token may differ; the accused's word loosens nothing."""
    record = record_of(base)
    loose = audited(record, Judge(base, None, margin_nats=100.0))  # also of the end
    assert loose.verdict == "reproduced" and loose.replayed is not None and loose.replayed.gaps
    strict = audited(record, Judge(base, None, margin_nats=100.0, same_processor=True))
    assert strict.verdict == "different" and "same class of processor" in strict.findings[0]


def test_other_weights_in_the_auditor_s_hand_accuse_nobody(
    base: LoadedBase, tmp_path: Path
) -> None:
    """A wrong file or base is the auditor's mistake, and is told as such."""
    digest = write_random_adapter(tmp_path / "a.safetensors", base, rank=4, seed=3)
    write_random_adapter(tmp_path / "b.safetensors", base, rank=4, seed=4)
    state = AdapterState(
        SOLD, ZERO_ADDRESS, base.digest, digest, Cid("bafy"), ZERO_HASH, 2000, 1000, 0, ()
    )
    require_weights(state, Judge(base, tmp_path / "a.safetensors"))
    for weights in (tmp_path / "b.safetensors", None):
        with pytest.raises(InvalidRequest, match="--weights"):
            require_weights(state, Judge(base, weights))
    with pytest.raises(InvalidRequest, match="--base-model"):
        require_weights(replace(state, base_model=ZERO_HASH), Judge(base, None))


def test_a_plain_completion_is_replayed_too(base: LoadedBase) -> None:
    body = {"model": f"viz-adapter-{SOLD}", "prompt": "The lamp", "max_tokens": 3, "temperature": 0}
    count = base.tokenizer.count_prompt("The lamp")
    record = evidence(base, json.dumps(body).encode(), "abc", "length", count)
    record = replace(record, path=COMPLETIONS_PATH)
    asked = read_completion(body, max_choices=1)
    found = audit_answer(record, asked, Judge(base, None, margin_nats=100.0), DOMAIN)
    assert found.verdict == "reproduced"
