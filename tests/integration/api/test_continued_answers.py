"""An answer that goes on from what another node wrote of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import Buyer, Node, running_node

SCRIPT = b"The tide turns at noon, and the ferry waits for it. "


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    engine = FakeEngine(context_tokens=2048, script=SCRIPT)
    async with running_node(tmp_path, engine=engine) as running:
        yield running


def going_on(body: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    """Return the request that goes on from ``text``."""
    messages = [*body["messages"], {"role": "assistant", "content": text}]
    return {**body, "messages": messages, "continue_final_message": True, **more}


@pytest.mark.parametrize("more", [{}, {"add_generation_prompt": False}], ids=["short", "full"])
async def test_what_came_before_is_prompt_and_only_new_tokens_are_completion(
    node: Node, more: dict[str, Any]
) -> None:
    """Protects who pays for two parts of one answer: no completion token is billed twice."""
    buyer = await Buyer(node).ready()
    body = buyer.chat(max_tokens=20)
    first = await buyer.ask(body)
    second = await buyer.ask(going_on(body, first.text, max_tokens=30, **more))
    assert first.receipt is not None and second.receipt is not None
    before, after = first.receipt.receipt, second.receipt.receipt
    assert (before.completion_tokens, after.completion_tokens) == (20, 30)
    assert after.prompt_tokens == before.prompt_tokens + before.completion_tokens
    assert len(second.text) == 30


NO_REPLY = [{"role": "user", "content": "When?"}]
ALONE = [{"role": "assistant", "content": "At"}]
EMPTY = [*NO_REPLY, {"role": "assistant", "content": ""}]
GOOD = [*NO_REPLY, *ALONE]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": NO_REPLY, "continue_final_message": True}, "continue_final_message"),
    ({"messages": ALONE, "continue_final_message": True}, "continue_final_message"),
    ({"messages": EMPTY, "continue_final_message": True}, "continue_final_message"),
    ({"messages": GOOD, "continue_final_message": "yes"}, "continue_final_message"),
    (
        {"messages": GOOD, "continue_final_message": True, "add_generation_prompt": True},
        "add_generation_prompt",
    ),
    ({"messages": GOOD, "add_generation_prompt": False}, "add_generation_prompt"),
    ({"messages": GOOD, "add_generation_prompt": 0}, "add_generation_prompt"),
]


@pytest.mark.parametrize(("changes", "param"), REFUSED)
async def test_a_request_that_cannot_go_on_is_refused_by_name(
    node: Node, changes: dict[str, Any], param: str
) -> None:
    """Protects from an answer that begins anew although it was asked to go on."""
    buyer = await Buyer(node).ready()
    answer = await buyer.ask(buyer.chat(**changes))
    assert answer.status == 400 and answer.body["error"]["param"] == param


async def test_a_long_beginning_is_refused_by_its_size(node: Node) -> None:
    """Protects from unpaid work: what came before counts as prompt before it is tokenised."""
    buyer = await Buyer(node).ready()
    answer = await buyer.ask(going_on(buyer.chat(), "tide " * 800))
    assert answer.status == 413


async def test_a_plain_prompt_has_no_message_to_go_on_from(node: Node) -> None:
    """Protects from a parameter that is silently ignored: raw prompts go on by themselves."""
    buyer = await Buyer(node).ready()
    body = {"model": buyer.chat()["model"], "prompt": "When?", "stream": True}
    answer = await buyer.ask({**body, "continue_final_message": True}, path="/v1/completions")
    assert answer.status == 400 and "continue_final_message" in answer.body["error"]["message"]
