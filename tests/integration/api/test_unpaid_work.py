"""What is sent is paid and what is not paid is not done: choices, prompts, log-probabilities."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import ADAPTER, Answer, Buyer, Node, running_node
from tests.integration.api.test_streams import last_receipt

from viz.domain.units import ZERO_ADDRESS
from viz.protocol import payment
from viz.services.serving.admission import BYTES_A_TOKEN
from viz.services.serving.paid_stream import ServingPolicy

GUESS = 60


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    policy = ServingPolicy(step_tokens=64, voucher_grace_s=0.3)
    async with running_node(tmp_path, policy=policy) as running:
        yield running


def told(answer: Answer, *, chat: bool) -> dict[int, str]:
    """Return the tokens that an answer's log-probabilities name, by choice."""
    found: dict[int, str] = {}
    lines = [line[6:] for line in answer.raw.decode().splitlines() if line.startswith("data: {")]
    bodies = [json.loads(line) for line in lines] if lines else [answer.body]
    for choice in (each for body in bodies for each in body.get("choices", ())):
        said = choice.get("logprobs") or {}
        tokens = [each["token"] for each in said.get("content", ())] if chat else said.get("tokens")
        found[choice["index"]] = found.get(choice["index"], "") + "".join(tokens or ())
    return found


def texts(answer: Answer) -> str:
    """Return the text of a whole answer's choices, or of a stream."""
    if answer.body is None:
        return answer.text
    return "".join(
        each["message"]["content"] if "message" in each else each["text"]
        for each in answer.body["choices"]
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("chat", [True, False])
async def test_what_a_stop_string_cuts_is_neither_told_nor_billed(
    node: Node, *, chat: bool, choices: int, stream: bool
) -> None:
    """Who guessed the answer learnt it token by token, for the price of the prompt."""
    buyer = await Buyer(node).ready()
    path = payment.CHAT_PATH if chat else payment.COMPLETIONS_PATH
    logprobs = {"logprobs": True, "top_logprobs": 20} if chat else {"logprobs": 5}
    for question in map(str, range(40)):
        body = buyer.chat(question, max_tokens=64, **logprobs)
        if not chat:
            del body["messages"]
            body["prompt"] = question
        plain = await buyer.ask(body, path=path)
        if len(plain.text) >= GUESS:
            break
    assert told(plain, chat=chat)[0] == plain.text, "of what is sent, all is told"
    for guess in (plain.text[:GUESS], plain.text[10:40]):
        before = plain.text[: plain.text.index(guess)]
        wanted = {"n": choices, "stream": stream, "stop": [guess, "perhaps", "maybe"]}
        answer = await buyer.ask({**body, **wanted}, path=path)
        assert sorted(texts(answer)) == sorted(before * choices)
        assert set(told(answer, chat=chat).values()) <= {before}
        receipt = await last_receipt(node, buyer)
        assert receipt.completion_tokens == len(before) * choices


async def test_n_choices_compute_the_prompt_that_is_billed(node: Node) -> None:
    """Eight choices are billed one prompt, and one prompt is computed."""
    buyer = await Buyer(node).ready()
    answer = await buyer.ask(buyer.chat("x" * 1_500, max_tokens=1, n=8))
    assert answer.receipt is not None
    assert node.engine.stats()["prefilled_tokens"] == answer.receipt.receipt.prompt_tokens


class Reading(FakeEngine):
    """An engine whose tokens stand for up to 81 bytes, that notes how much it tokenises."""

    def __init__(self, context_tokens: int = 2048) -> None:
        super().__init__(context_tokens=context_tokens)
        # A message of this engine's takes "user", two line ends and two marks at least.
        self._model = replace(self._model, longest_token_bytes=81, message_tokens=8)
        self.read_bytes = 0

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> tuple[int, ...]:
        self.read_bytes += sum(len(each["content"].encode()) for each in messages)
        return super().render(messages, so_far)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "tide " * 8_000}],
        [{"role": "user", "content": "tide " * 400}] * 20,
        [{"role": "user", "content": "t"}] * 300,
        [{"role": "user", "content": "t"}] * 32,
    ],
)
async def test_prompts_too_long_are_not_tokenised(
    tmp_path: Path, messages: list[dict[str, str]]
) -> None:
    """What no context holds is refused by its size, whatever the longest token could spell."""
    engine = Reading(2048 if len(messages) <= 20 else 256)
    async with running_node(tmp_path, engine=engine) as node:
        buyer = await Buyer(node).ready()
        answer = await buyer.ask(buyer.chat(messages=messages), pays=False)
        assert (answer.status, answer.body["code"]) == (413, "prompt-too-long")
        assert engine.read_bytes == 0
        longest = "x" * (engine.model.context_tokens * BYTES_A_TOKEN)
        answer = await buyer.ask(buyer.chat(longest), pays=False)
        assert answer.status == 413 and engine.read_bytes == len(longest)


async def test_a_short_question_does_not_wait_for_long_ones(tmp_path: Path) -> None:
    """Prompts that may turn out too long queue by themselves, however many channels send them."""
    engine = Reading()
    async with running_node(tmp_path, engine=engine) as node:
        long_ones = [await Buyer(node, key=bytes([n]) * 32).ready(1_000) for n in range(0x61, 0x66)]
        honest = await Buyer(node).ready()
        async with node.parts.serving._tokenising_long:
            waiting = [
                asyncio.create_task(each.ask(each.chat("tide " * 3_000), pays=False))
                for each in long_ones
            ]
            assert (await honest.ask()).text
            assert not any(each.done() for each in waiting)
        assert {each.status for each in await asyncio.gather(*waiting)} == {413}


@pytest.mark.parametrize("left", ["nothing was opened", "all was withdrawn", "a close is asked"])
async def test_credit_is_given_on_a_deposit_alone(tmp_path: Path, left: str) -> None:
    """A window of credit is a channel's: fresh keys, and those that took their money back, have
    none, and nothing is tokenised for them."""
    engine = Reading()
    async with running_node(tmp_path, engine=engine, credit_window_units=10_000) as node:
        buyer = Buyer(node)
        if left != "nothing was opened":
            await buyer.open()
            key = buyer.signer, node.chain.address
            state = node.chain.channels[key]
            assert state.payer != ZERO_ADDRESS
            if left == "all was withdrawn":
                node.chain.channels[key] = replace(state, deposit_units=0)
            else:
                node.chain.channels[key] = replace(state, close_at=node.clock.now + 9_000)
            node.clock.now += 60
        await buyer.login()
        answer = await buyer.ask(pays=False)
        assert answer.status in (402, 409), answer
        assert engine.read_bytes == 0


@pytest.mark.parametrize(("deposit", "statuses"), [(10_000, {200}), (1_000, {200, 402})])
async def test_credit_ends_where_the_deposit_does(
    tmp_path: Path, deposit: int, statuses: set[int]
) -> None:
    """The window is 5,000 units; a channel that holds less has no more credit than it holds."""
    async with running_node(tmp_path, credit_window_units=5_000) as node:
        buyer = await Buyer(node).ready(deposit)
        seen: set[int] = set()
        for _ in range(8):
            answer: Any = await buyer.ask(buyer.chat(max_tokens=24), pays=False)
            seen.add(answer.status)
        assert seen == statuses
        record = await node.store.channel(buyer.signer)
        assert record is not None and record.lines[ADAPTER].spent_units <= min(5_000, deposit)
