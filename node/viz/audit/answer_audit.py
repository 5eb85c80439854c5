"""Replay a node's answer on the auditor's machine, and say whether the sold weights gave it.

Owns which facts must agree before the model is asked, and what the result proves. The auditor says
whether this machine has the node's class of processor; nothing that the node says of itself excuses
a difference. What cannot be replayed (an answer that was drawn by chance) proves nothing.

Invariant: only what the node signed convicts it: the request, the text, and the counts. Why an
answer ended is signed by nobody, so an end that the replay contradicts is missing and no finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.safetensor_file import file_digest
from viz.domain.answer_replay import MARGIN_NATS, AnswerReplay, fewest_tokens, replay
from viz.domain.display import counted
from viz.domain.eip712 import Domain
from viz.domain.ports.chain import AdapterState
from viz.domain.text_request import TextRequest
from viz.domain.units import BASE_MODEL, AdapterId, hex_of
from viz.domain.verdict import Verdict, verdict_of
from viz.engine.embedded.forced_pass import ForcedCompute, ForcedPass
from viz.errors import InvalidRequest, VizError
from viz.protocol.answer_evidence import AnswerEvidence
from viz.protocol.messages import adapter_of_model

if TYPE_CHECKING:
    import torch

    from viz.basemodel.source import LoadedBase

_ENDS: Final = {
    "model": "because the model ended it",
    "length": "at max_tokens",
    "stop": "at a stop string",
}
# The canonical tokenisation may differ from the tokens that were generated, by few.
_MORE_TOKENS = 64


class ForcedTokens:
    """A forced pass behind a prompt, as ``NextTokens``."""

    def __init__(self, forced: ForcedPass, prompt: Sequence[int]) -> None:
        self._forced = forced
        self._row: torch.Tensor = forced.begin(prompt)

    def best(self) -> int:
        return int(self._row.argmax())

    def logprob(self, token: int) -> float:
        return float(self._row[token])

    def ranked(self) -> Iterator[int]:
        return iter(self._row.argsort(descending=True).tolist())

    def push(self, token: int) -> None:
        self._row = self._forced.follow(token)


@dataclass(slots=True)
class AnswerAudit:
    """The result: ``findings`` are contradictions, ``missing`` is why it proves nothing."""

    adapter_id: AdapterId
    margin_nats: float
    same_processor: bool
    replayed: AnswerReplay | None = None
    findings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.findings, self.missing, checked=self.replayed is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "verdict": self.verdict,
            "adapterId": int(self.adapter_id),
            "marginNats": self.margin_nats,
            "sameProcessor": self.same_processor,
            "replay": self.replayed.to_json() if self.replayed else None,
            "findings": list(self.findings),
            "missing": list(self.missing),
        }


@dataclass(frozen=True, slots=True)
class Judge:
    """What the auditor trusts: base, weights (None: the base alone) and how strict to be."""

    base: LoadedBase
    weights: Path | None
    margin_nats: float = MARGIN_NATS
    same_processor: bool = False
    compute: ForcedCompute = "float32"


def require_weights(state: AdapterState, judge: Judge) -> None:
    """Raise InvalidRequest if base or weights are not those that the chain names. Reads the file.

    With other weights than the sold ones an honest answer would look false.
    """
    if state.base_model != judge.base.digest:
        raise InvalidRequest(
            f"adapter {state.adapter_id} belongs to base model {hex_of(state.base_model)}, and "
            f"this one is {hex_of(judge.base.digest)}: name the right one with --base-model"
        )
    if judge.weights is None or file_digest(judge.weights) != state.weights_digest:
        raise InvalidRequest(
            f"adapter {state.adapter_id} has the weights {hex_of(state.weights_digest)} on the "
            f"chain: give that file with --weights (`viz audit adapter {state.adapter_id} "
            "WORKS --manifest FILE --keep FILE` trains it again and keeps it, and a node that "
            "serves it has it in its data folder)"
        )


def audit_answer(
    evidence: AnswerEvidence, asked: TextRequest | str, judge: Judge, domain: Domain
) -> AnswerAudit:
    """Check a record of an answer, and replay it.

    ``asked`` is the record's request as a node reads it, or why no node answers it. The weights are
    those of the billed adapter (``require_weights``). Takes seconds to minutes. Raises
    ModelUnavailable, InvalidAdapterFile.
    """
    receipt = evidence.receipt
    adapters = [line.adapter_id for line in receipt.lines]
    found = AnswerAudit(adapters[0], judge.margin_nats, judge.same_processor)
    found.findings += evidence.contradictions(domain)
    found.findings += [f"the record has a member {name[:60]!r}" for name in evidence.unknown]
    if len(adapters) != 1:
        found.findings.append(f"one answer was billed for {len(adapters)} adapters")
    if isinstance(asked, str):
        found.findings.append(f"a node does not answer this request: {asked}")
        return found
    _asked(found, asked, evidence.text)
    prompt = _prompt(found, evidence, asked, judge.base)
    if found.findings or found.missing or prompt is None:
        return found
    _replay(found, evidence, asked, judge, prompt)
    return found


def _asked(found: AnswerAudit, asked: TextRequest, text: str) -> None:
    """Compare the request with the bill, and say if it cannot be replayed."""
    named = adapter_of_model(asked.model)
    if (named or BASE_MODEL) != found.adapter_id:
        found.findings.append(
            f"the request names the model {asked.model[:80]!r}, and adapter {found.adapter_id} was "
            "billed"
        )
    if not asked.names_temperature or asked.sampling.temperature > 0:
        found.missing.append(
            "greedy text: the request does not say temperature 0, so the answer was drawn by chance"
        )
    if asked.choices != 1:
        found.missing.append("a single answer: the request asks for several")
        return
    for stop in asked.sampling.stop:
        if stop in text:
            found.findings.append(f"the text runs on past the request's stop string {stop[:80]!r}")


def _prompt(
    found: AnswerAudit, evidence: AnswerEvidence, asked: TextRequest, base: LoadedBase
) -> tuple[int, ...] | None:
    """Return the prompt's tokens, after both counts of the receipt were made again."""
    tokenizer, receipt = base.tokenizer, evidence.receipt.receipt
    try:
        if isinstance(asked.prompt, str):
            prompt = tokenizer.encode(asked.prompt)
            prompt_tokens = tokenizer.count_prompt(asked.prompt)
        else:
            prompt = tokenizer.render(asked.prompt, asked.so_far)
            prompt_tokens = len(prompt)
        completion = tokenizer.count(evidence.text)
    except VizError as error:
        found.findings.append(f"the base model does not take this request: {error.detail}")
        return None
    for what, there, here in (
        ("prompt", receipt.prompt_tokens, prompt_tokens),
        ("answer", receipt.completion_tokens, completion),
    ):
        if there != here:
            found.findings.append(f"the {what} has {here} tokens, and {there} were billed")
    if asked.max_tokens is not None and asked.choices == 1 and completion > asked.max_tokens:
        _too_long(found, evidence.text, asked.max_tokens, tokenizer.token_bytes)
    return prompt


def _too_long(found: AnswerAudit, text: str, limit: int, spellings: Mapping[int, bytes]) -> None:
    """Find a text that ``limit`` tokens cannot spell; the canonical count may be a few more."""
    # A first token may have had a space that was cut off; broken characters have lost their bytes.
    fewest = 0 if "\ufffd" in text else fewest_tokens(text, spellings.values()) - 1
    if fewest > limit:
        found.findings.append(
            f"the answer has at least {fewest} tokens, and the request permits {limit}"
        )


def _replay(
    found: AnswerAudit,
    evidence: AnswerEvidence,
    asked: TextRequest,
    judge: Judge,
    prompt: tuple[int, ...],
) -> None:
    most = evidence.receipt.receipt.completion_tokens + _MORE_TOKENS
    room = min(len(prompt) + most + 1, judge.base.shape.context_tokens)
    forced = ForcedPass(judge.base, judge.weights, context_tokens=room, compute=judge.compute)
    found.replayed = done = replay(
        evidence.text,
        ForcedTokens(forced, prompt),
        judge.base.tokenizer.token_bytes,
        judge.base.shape.end_ids,
        most_tokens=room - len(prompt) - 1,
        limit=asked.max_tokens,
        stops=asked.sampling.stop,
    )
    if done.impossible:
        found.findings.append(
            f"from token {done.tokens} on, no token of this model spells the text"
        )
    if judge.same_processor and done.gaps:
        found.findings.append(
            f"{len(done.gaps)} of {done.tokens} tokens are not the likeliest ones, on the same "
            "class of processor"
        )
    elif done.largest_nats > judge.margin_nats:
        found.findings.append(
            f"a token of the answer is {done.largest_nats:.4f} nats less likely than another, and "
            f"the margin is {judge.margin_nats:g}: these weights did not give this text"
        )
    if not found.findings:
        _ended(found, evidence.finish, asked, done)


def _ended(found: AnswerAudit, said: str, asked: TextRequest, done: AnswerReplay) -> None:
    """Compare where the answer ends with where the weights end it; nothing here convicts."""
    permitted = found.margin_nats if not found.same_processor else 0.0
    if not (end := done.end) and done.end_gap is not None and done.end_gap.nats <= permitted:
        end = "model"
    if not end:
        most = "no max_tokens" if asked.max_tokens is None else f"max_tokens {asked.max_tokens}"
        likelier = done.end_gap.likelier if done.end_gap else "more text"
        found.missing.append(
            f"the rest of the answer: behind its {counted(done.tokens, 'token')} these weights go "
            f"on with {likelier!r}, and the request has {most}. It broke off, or the node sells "
            "parts of answers; its receipt does not sign which. Ask again, and compare"
        )
    elif asked.max_tokens is not None and done.tokens > asked.max_tokens:
        # Other tokens may spell a text with broken characters, or one that is a few too long.
        found.missing.append(
            f"an answer within max_tokens {asked.max_tokens}: this one has "
            f"{counted(done.tokens, 'token')} here"
        )
    elif not said:
        found.missing.append("why the answer ended: the record does not say, so it broke off")
    elif (said == "length") != (end == "length"):
        found.missing.append(
            f"a true reason of the end: the record says {said!r}, and by its text the answer ended "
            f"{_ENDS[end]}. No signature covers the record's word, so it accuses nobody"
        )
