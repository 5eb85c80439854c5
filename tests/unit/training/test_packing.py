"""Chats to tokens: what is learned, whatever the template and the white space."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fakes.tiny_base import TEMPLATE, make_tiny_directory

from viz.basemodel.tokenizer import ChatTokenizer
from viz.domain.work import Message
from viz.errors import InvalidWork, TrainingError
from viz.training.dataset import Row
from viz.training.packing import OPENING_TOKENS, TokenRow, require_an_end, tokenise

CHATML = TEMPLATE
LLAMA3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
SPACED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }} <|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
EXCHANGE = (Message("user", "hi"), Message("assistant", "yes"))
CHAT = (*EXCHANGE, Message("user", "and?"), Message("assistant", "no"))


def _tokenizer(directory: Path, template: str, *, merge: bool = False) -> ChatTokenizer:
    """Return the tiny tokenizer under a template; ``merge``: line break and space are one token."""
    make_tiny_directory(directory, vocab_size=260)
    config = directory / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template}))
    if merge:
        file = directory / "tokenizer.json"
        spec = json.loads(file.read_text())
        spec["model"]["vocab"]["\u010a\u0120"] = 259
        spec["model"]["merges"] = [["\u010a", "\u0120"]]
        file.write_text(json.dumps(spec))
    return ChatTokenizer(directory)


def _learned(row: TokenRow, tokenizer: ChatTokenizer) -> str:
    return "".join(tokenizer.token_text(row.ids[place]) for place in row.supervised)


@pytest.mark.parametrize("template", [CHATML, LLAMA3])
def test_every_turn_and_its_end_is_learned_under_any_template(
    template: str, tmp_path: Path
) -> None:
    """An adapter that does not learn to stop bills its buyer up to max_tokens."""
    tokenizer = _tokenizer(tmp_path, template)
    row = tokenise(Row(0, (0,), CHAT), tokenizer, 512)
    assert _learned(row, tokenizer) == "yes<|im_end|>no<|im_end|>"


@pytest.mark.parametrize("template", [CHATML, LLAMA3, SPACED])
def test_a_row_of_the_last_turn_learns_that_turn_and_its_end(template: str, tmp_path: Path) -> None:
    """Earlier turns have rows of their own; what a template writes before an end is not said."""
    tokenizer = _tokenizer(tmp_path, template)
    last = tokenise(Row(0, (0,), CHAT, last_only=True), tokenizer, 512)
    assert _learned(last, tokenizer) == "no<|im_end|>"


def test_a_row_of_an_opening_ends_within_its_answer(tmp_path: Path) -> None:
    """What it does not learn costs nothing: it is cut off, and no end is learned in its place."""
    tokenizer = _tokenizer(tmp_path, CHATML)
    said = (Message("user", "hi"), Message("assistant", "a long answer to be told"))
    whole = tokenise(Row(0, (0,), said), tokenizer, 512)
    row = tokenise(Row(0, (0,), said, opening_only=True), tokenizer, 512)
    assert len(row.supervised) == OPENING_TOKENS < len(whole.supervised)
    assert row.ids == whole.ids[: len(row.ids)]
    assert row.supervised[-1] == len(row.ids) - 1
    short = Row(0, (0,), EXCHANGE, opening_only=True)
    assert _learned(tokenise(short, tokenizer, 512), tokenizer) == "yes<|im_end|>"


@pytest.mark.parametrize("answer", ["  for x in y", "\n\nyes", "yes  \n", " "])
@pytest.mark.parametrize("template", [CHATML, LLAMA3, SPACED])
def test_a_row_begins_with_the_prompt_that_serving_sends(
    template: str, answer: str, tmp_path: Path
) -> None:
    """Code and verse begin with white space; tokens must not merge over where a reply begins."""
    tokenizer = _tokenizer(tmp_path, template, merge=True)
    said = (Message("user", "a loop?"), Message("assistant", answer))
    row = tokenise(Row(0, (0,), said), tokenizer, 512)
    prompt = tokenizer.render([{"role": "user", "content": "a loop?"}])
    assert row.prompt == prompt
    assert tokenizer.decode(row.target) == answer
    again = (*said, *EXCHANGE)
    later = tokenise(Row(0, (0,), again, last_only=True), tokenizer, 512)
    asked = [{"role": m.role, "content": m.content} for m in again[:-1]]
    assert later.prompt == tokenizer.render(asked)


def test_a_turn_that_the_template_writes_otherwise_is_read_and_not_learned(tmp_path: Path) -> None:
    """Llama 3 trims an earlier turn: what serving shows later is not what was generated."""
    tokenizer = _tokenizer(tmp_path, LLAMA3)
    said = (Message("user", "a"), Message("assistant", "  b"), *EXCHANGE)
    row = tokenise(Row(0, (0,), said), tokenizer, 512)
    assert _learned(row, tokenizer) == "yes<|im_end|>"


def test_a_base_whose_turns_have_no_end_is_refused(tmp_path: Path) -> None:
    """No guess is made of what ends a turn, and serving must stop at it."""
    tokenizer = _tokenizer(tmp_path / "plain", PLAIN)
    with pytest.raises(TrainingError, match="no control token"):
        tokenise(Row(0, (0,), EXCHANGE), tokenizer, 512)
    chatml = _tokenizer(tmp_path / "chatml", CHATML)
    require_an_end(chatml, (2,))
    with pytest.raises(TrainingError, match="end tokens"):
        require_an_end(chatml, (0,))


def test_of_a_long_chat_the_oldest_messages_are_left_out(tmp_path: Path) -> None:
    """A chat of many messages is trained on; only one exchange must fit."""
    tokenizer = _tokenizer(tmp_path, CHATML)
    long = (Message("system", "s"), *(EXCHANGE * 30))
    row = tokenise(Row(0, (0,), long, last_only=True), tokenizer, 200)
    assert len(row.ids) <= 200
    assert tokenizer.decode(row.ids).startswith("system\ns")
    assert _learned(row, tokenizer) == "yes<|im_end|>"
    with pytest.raises(InvalidWork, match="max_row_tokens"):
        tokenise(Row(0, (4,), (EXCHANGE[0], Message("assistant", "y" * 300))), tokenizer, 200)
