"""A buyer counts what a node bills: to the token where it can, and never below it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from viz.basemodel.packaged import TOKENIZER_OF_BASE, find_tokenizer
from viz.basemodel.tokenizer import ChatTokenizer
from viz.buyer.terms.counting import Counter, Counters, TextCount
from viz.buyer.terms.request import AskedRequest
from viz.domain.units import ZERO_HASH
from viz.protocol.payment import CHAT_PATH, COMPLETIONS_PATH

(DIGEST,) = TOKENIZER_OF_BASE.values()


def tokenizer() -> ChatTokenizer:
    found = find_tokenizer(DIGEST)
    assert found is not None
    return found


def chat(*messages: tuple[str, Any]) -> AskedRequest:
    said = [{"role": role, "content": content} for role, content in messages]
    return AskedRequest(CHAT_PATH, {"model": "m", "messages": said})


def completion(prompt: Any) -> AskedRequest:
    return AskedRequest(COMPLETIONS_PATH, {"model": "m", "prompt": prompt})


PARTS = [{"type": "text", "text": "high "}, {"type": "text", "text": "tide"}]


@pytest.mark.parametrize(
    ("asked", "rendered"),
    [
        (chat(("user", "hi")), [("user", "hi")]),
        (chat(("developer", "be brief"), ("user", "hi")), [("system", "be brief"), ("user", "hi")]),
        (chat(("user", PARTS)), [("user", "high tide")]),
        (chat(("user", "hi"), ("assistant", None)), [("user", "hi"), ("assistant", "")]),
        (chat(("user", "a<|im_end|>b 12345 🌊")), [("user", "a<|im_end|>b 12345 🌊")]),
    ],
)
def test_a_chat_is_counted_as_its_template_renders_it(
    asked: AskedRequest, rendered: list[tuple[str, str]]
) -> None:
    """No token of slack: what a node adds to the prompt's count is caught."""
    messages = [{"role": role, "content": content} for role, content in rendered]
    counter = Counter(tokenizer())
    assert counter.exact and counter.prompt_tokens(asked) == len(tokenizer().render(messages))


def test_a_reply_that_goes_on_is_counted_as_prompt_and_completion_were() -> None:
    """Nobody pays for the seam: the prompt's count is the first one's and that of its answer."""
    first = chat(("user", "hi"))
    text = "  It is <|im_end|> high\n\n"
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]
    body = {"model": "m", "messages": said, "continue_final_message": True}
    exact, bound = Counter(tokenizer()), Counter()
    counted = exact.prompt_tokens(AskedRequest(CHAT_PATH, body))
    assert counted == exact.prompt_tokens(first) + exact.text_tokens(text)
    assert bound.prompt_tokens(AskedRequest(CHAT_PATH, body)) >= counted


@pytest.mark.parametrize("prompt", ["high tide", ["high tide"]])
def test_a_raw_prompt_is_counted_as_it_is(prompt: Any) -> None:
    """Neither a template nor an opening token is billed for it."""
    assert Counter(tokenizer()).prompt_tokens(completion(prompt)) == 2
    # Some tokenizers put a space before it.
    assert Counter().prompt_tokens(completion(prompt)) == len(b"high tide") + 1


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(texts=st.lists(texts, min_size=1, max_size=5), system=st.booleans())
def test_without_a_tokenizer_no_honest_count_is_above_the_bound(
    texts: list[str], system: bool
) -> None:
    """Who cannot count accuses nobody: default system message and role marks are allowed for."""
    roles = ["system" if system else "user", *["user", "assistant"] * 2]
    asked = chat(*zip(roles, texts, strict=False))
    exact = Counter(tokenizer()).prompt_tokens(asked)
    assert exact <= Counter(count_tokens=tokenizer().count).prompt_tokens(asked)
    assert exact <= Counter().prompt_tokens(asked)
    for text in texts:
        assert tokenizer().count(text) <= Counter().text_tokens(text)


def test_it_is_said_once_where_nothing_can_be_counted(tmp_path: Path) -> None:
    """Who pays on a bound alone is told so, with what to do about it, and not at every answer."""
    counters = Counters(tmp_path)
    with structlog.testing.capture_logs() as logs:
        assert counters.of(DIGEST).exact
        for _ in range(3):
            assert not counters.of(ZERO_HASH).exact
    (line,) = logs
    assert str(tmp_path) in line["event"] and "tokenizer.json" in line["event"]


def test_a_long_answer_is_not_counted_at_every_letter() -> None:
    """Counting again at each piece would take the square of the answer's length."""
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return tokenizer().count(text)

    growing, text, found = TextCount(Counter(count_tokens=count)), "", 0
    for word in ["high tide at six, ", "low tide at noon. "] * 500:
        text += word
        found = growing.grew(text, len(word))
    assert sum(counted) < 20 * len(text)
    exact = tokenizer().count(text)
    assert exact <= found <= exact + len(text) // 8
