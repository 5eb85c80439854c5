"""A node that sends chunks without text is as silent as one that sends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from viz.buyer.network import failover
from viz.buyer.network.failover import NetworkAnswer
from viz.errors import NodeUnreachable
from viz.protocol.market import MarketModel

WORD = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
EMPTY: tuple[dict[str, Any], ...] = (
    {"choices": [{"index": 0, "delta": {"content": ""}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]},
    {"choices": [{"index": 0, "text": ""}]},
    {"choices": []},
    {},
)


class Dripping:
    """A part whose node sends some words, and then the same chunk every 20 ms for 5 s."""

    text = ""

    def __init__(self, words: int, chunk: dict[str, Any], wait_s: float = 0.02) -> None:
        self._words, self._chunk, self._wait_s = words, chunk, wait_s

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        for _ in range(self._words):
            self.text += "a"
            yield WORD
        for _ in range(250):
            await asyncio.sleep(self._wait_s)
            yield self._chunk


def answer() -> NetworkAnswer:
    model = cast(MarketModel, type("Named", (), {"model": "viz-adapter-1"}))
    return NetworkAnswer(
        *[cast(Any, None)] * 4, model=model, offers=[], body={}, path="/v1/chat/completions"
    )


async def read(part: Dripping, pause_s: float = 0.0) -> int:
    seen = 0
    async for _ in answer()._read(cast(Any, part)):
        seen += 1
        await asyncio.sleep(pause_s)
    return seen


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "FIRST_TEXT_S", 0.3)
    monkeypatch.setattr(failover, "NEXT_TEXT_S", 0.2)


@pytest.mark.parametrize("words", [0, 1])
@pytest.mark.parametrize("chunk", EMPTY)
async def test_chunks_without_text_do_not_keep_a_buyer(words: int, chunk: dict[str, Any]) -> None:
    """The next node is asked as if nothing came: it held its buyer for as long as it liked."""
    with pytest.raises(NodeUnreachable, match="sent no text for 0 s"):
        await read(Dripping(words, chunk))


async def test_a_slow_reader_is_not_the_node_s_silence() -> None:
    """What the caller does between two chunks takes nothing of the node's time."""

    class Brief(Dripping):
        async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
            yield WORD
            for _ in range(4):
                yield EMPTY[0]
            yield WORD

    assert await read(Brief(0, {}), pause_s=0.1) == 6
