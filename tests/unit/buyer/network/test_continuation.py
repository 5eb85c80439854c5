"""The request that asks another node for the rest of an answer."""

from __future__ import annotations

from viz.buyer.network.continuation import DEFAULT_TOKENS, goes_on, length_of, with_length
from viz.protocol.payment import CHAT_PATH, COMPLETIONS_PATH

ASKED = [{"role": "user", "content": "When?"}]


def test_a_chat_goes_on_from_what_arrived() -> None:
    body = {"messages": ASKED, "max_tokens": 60, "seed": 7}
    again = goes_on(body, CHAT_PATH, "At noon", 48)
    assert again == {
        "messages": [*ASKED, {"role": "assistant", "content": "At noon"}],
        "max_tokens": 48,
        "seed": 7,
        "continue_final_message": True,
        "add_generation_prompt": False,
    }
    assert body["messages"] is ASKED and len(ASKED) == 1, "the request itself stays"


def test_a_reply_that_was_begun_by_the_program_is_one_reply() -> None:
    """What the program wrote of the reply and what arrived are joined, not two messages."""
    begun = {"role": "assistant", "content": [{"type": "text", "text": "At "}]}
    body = {"messages": [*ASKED, begun], "max_tokens": 9, "continue_final_message": True}
    again = goes_on(body, CHAT_PATH, "noon", 5)
    assert again["messages"][-1] == {"role": "assistant", "content": "At noon"}
    assert len(again["messages"]) == 2


def test_a_raw_prompt_grows() -> None:
    body = {"prompt": ["Tides:"], "max_tokens": 9}
    assert goes_on(body, COMPLETIONS_PATH, " noon", 3) == {"prompt": "Tides: noon", "max_tokens": 3}


def test_without_text_the_request_is_the_same() -> None:
    body = {"messages": ASKED}
    assert goes_on(body, CHAT_PATH, "", 1) is body


def test_the_length_is_named_so_that_the_parts_sum_to_it() -> None:
    """A second node would else write its own default once more."""
    assert with_length({"messages": ASKED}, CHAT_PATH)["max_completion_tokens"] == DEFAULT_TOKENS
    assert with_length({"max_tokens": None}, COMPLETIONS_PATH) == {"max_tokens": DEFAULT_TOKENS}
    assert length_of({"max_completion_tokens": 5, "max_tokens": 9}) == 5
    assert length_of({}) == DEFAULT_TOKENS
