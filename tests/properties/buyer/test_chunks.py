"""What a node sends as a chunk of its answer, whatever it is: taken and joined, or refused."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from viz.buyer.answers.completion import assemble
from viz.buyer.answers.received import ReceivedAnswer, text_of
from viz.errors import VizError

scalars = st.none() | st.booleans() | st.integers(-1, 2) | st.text(max_size=3)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner)
)
logprobs = st.dictionaries(st.sampled_from(["content", "refusal", "tokens"]), anything)
choices = st.fixed_dictionaries(
    {},
    optional={
        "index": st.just(0) | anything,
        "delta": st.fixed_dictionaries({}, optional={"content": anything}) | anything,
        "text": anything,
        "logprobs": logprobs | anything,
        "finish_reason": anything,
    },
)
kinds = st.sampled_from(["chat.completion.chunk", "text_completion"]) | anything
chunks = st.fixed_dictionaries(
    {}, optional={"object": kinds, "choices": st.lists(choices | anything, max_size=2) | anything}
)


@given(st.lists(chunks, max_size=4))
def test_whoever_gets_a_chunk_that_was_taken_can_read_it(sent: list[dict[str, Any]]) -> None:
    """A chunk of another shape ended the buyer's program, or became a 500 for a billed answer."""
    arrived, taken = ReceivedAnswer(2, 100), list[dict[str, Any]]()
    for chunk in sent:
        try:
            arrived.take(chunk)
        except VizError:
            continue
        taken.append(chunk)
    whole = assemble(taken, {})
    texts = {each["index"]: each for each in whole["choices"]}
    for chunk in taken:
        for choice in chunk.get("choices") or ():
            index, text = text_of(choice)
            assert index in texts and isinstance(text, str)
