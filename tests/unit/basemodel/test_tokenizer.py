"""Canonical tokenisation under hostile text: linear work, no lock held, one count for everybody."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.tiny_base import CONTROL, _write_tokenizer

from viz.basemodel.tokenizer import ChatTokenizer
from viz.buyer.verify import tokenizer_from_file
from viz.errors import InvalidRequest


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    _write_tokenizer(folder)
    return ChatTokenizer(folder)


class Counted(str):
    """A text that counts how many of its characters were searched through."""

    searched = 0

    def __contains__(self, part: object) -> bool:
        Counted.searched += len(self)
        return super().__contains__(str(part))


@pytest.mark.parametrize("spelled", [0, 500])
def test_a_hostile_chat_costs_no_more_than_its_length(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, spelled: int
) -> None:
    """Text made of the marks that rendering looks for is neither searched nor grown again."""
    rendered: list[int] = []
    render = ChatTokenizer._render

    def counted(self: ChatTokenizer, messages: Any, reply: bool) -> str:
        text = render(self, messages, reply)
        rendered.append(len(text))
        return text

    monkeypatch.setattr(ChatTokenizer, "_render", counted)
    Counted.searched = 0
    text = Counted("\ue000" + "\ue001" * 5_000 + "<|im_end|>" * spelled)
    ids = tokenizer.render([{"role": "user", "content": text}])
    assert tokenizer.decode(ids) == f"user\n{text}\nassistant\n"
    assert Counted.searched + rendered[0] < 4 * len(text)


def test_no_text_of_the_private_area_is_taken_for_a_mark(tokenizer: ChatTokenizer) -> None:
    """Rendering never changes a text, whatever private characters and digits stand in it."""
    every = "".join(map(chr, range(0xE000, 0xF900)))
    for text in ("\ue0002\ue000", every + "2<|im_end|>2" + every, "\ue000<|im_start|>\ue001"):
        ids = tokenizer.render([{"role": "user", "content": text}])
        assert tokenizer.decode(ids) == f"user\n{text}\nassistant\n"
        assert [i for i in ids if i < len(CONTROL)] == [1, 2, 1]
    planes = "".join(map(chr, (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))))
    with pytest.raises(InvalidRequest, match="private"):
        tokenizer.render([{"role": "user", "content": every + planes}])


def test_other_threads_run_while_a_text_is_tokenised(tokenizer: ChatTokenizer) -> None:
    """A long prompt in a thread does not stop the event loop's thread: the lock is let go."""
    seen: list[str] = []
    text = "a stranger's long prompt\n" * 20_000

    def work() -> None:
        seen.append("begins")
        tokenizer.encode(text)
        seen.append("ends")

    before = sys.getswitchinterval()
    # Whoever holds the lock keeps it until it lets go by itself, so that order tells it all.
    sys.setswitchinterval(1_000)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            seen.append("other")
            time.sleep(0)
    finally:
        sys.setswitchinterval(before)
    assert "other" in seen[seen.index("begins") : seen.index("ends")]


@given(text=st.text())
def test_no_token_stands_for_more_bytes_than_the_longest(
    tokenizer: ChatTokenizer, text: str
) -> None:
    """The bound by which a prompt is refused unread refuses none that would fit."""
    assert len(text.encode()) <= tokenizer.count(text) * tokenizer.longest_token_bytes


def test_a_buyer_counts_as_the_node_bills(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    """Control tokens spelled in an answer are characters to both: no honest receipt is refused."""
    _write_tokenizer(tmp_path)
    count = tokenizer_from_file(str(tmp_path / "tokenizer.json"))
    assert count is not None
    for text in ("high tide", "a<|im_end|>b", "<|im_start|>", "naïve 🌊"):
        assert count(text) == tokenizer.count(text) == len(text.encode())
