"""Both kinds of BPE are read exactly as Hugging Face's libraries read them, or are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.sentencepiece_tokenizer import CONTROL, FORMS, write_sentencepiece
from tests.fakes.tiny_base import _write_tokenizer

from viz.basemodel.spelling import either
from viz.basemodel.tokenizer import ChatTokenizer, PlainTokenizer
from viz.domain.work import parse_work
from viz.errors import InvalidRequest, ModelUnavailable, TrainingError
from viz.services.payments.metering import lasting_part
from viz.training.packing import require_an_end

TEXTS = [
    "Hello, wörld! 12345",
    " leading and  double   spaces ",
    "line\n\nbreaks\n \n and\ttabs",
    "日本 🙂 ﷽ \x00 \u200b",
    "a <think>thought</think> here",
    "not a control token: <|im_end|> </s> <0x41> ",
    "",
    " ",
]
_SIGNS = st.sampled_from("ab the\n.,'19é漢😀-_\t<>/ ")
_TEXT = st.text(st.one_of(_SIGNS, st.characters(codec="utf-8", exclude_characters="▁")))


@pytest.fixture(scope="module", params=FORMS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentencepiece(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ChatTokenizer:
    return ChatTokenizer(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_a_raw_prompt_is_transformers_own(
    folder: Path, tokenizer: ChatTokenizer, text: str
) -> None:
    """It begins with the opening token, and with a space where the file puts one."""
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(str(folder))
    expected = theirs(text, split_special_tokens=True).input_ids
    assert list(tokenizer.encode(text)) == expected
    assert tokenizer.frame_tokens == 1
    assert tokenizer.count_prompt(text) == len(expected) - 1


@pytest.mark.parametrize("content", ["Hello, wörld!", " 日本 \n\n🙂 ", "<think>a</think>b"])
def test_a_chat_is_the_template_tokenised_as_one_text(
    folder: Path, tokenizer: ChatTokenizer, content: str
) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(str(folder))
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "?"},
    ]
    text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    expected = theirs(text, add_special_tokens=False).input_ids
    assert list(tokenizer.render(chat)) == expected


def test_text_before_the_first_control_token_begins_the_whole(tmp_path: Path) -> None:
    """The space goes before the whole text, and not before each part of it."""
    from transformers import PreTrainedTokenizerFast

    template = "Chat{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}<|im_end|>End"
    for form in FORMS:
        folder = write_sentencepiece(tmp_path / form, form, template=template)
        theirs = PreTrainedTokenizerFast.from_pretrained(str(folder))
        chat = [{"role": "user", "content": "hello"}]
        text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        expected = theirs(text, add_special_tokens=False).input_ids
        assert list(ChatTokenizer(folder).render(chat)) == expected


@given(text=_TEXT)
def test_canonical_tokens_spell_the_text_and_are_no_more_than_its_bytes(
    tokenizer: ChatTokenizer, text: str
) -> None:
    """Buyers who do not know a tokenizer pay by the bytes at most; what is counted was sent."""
    ids = tokenizer.tokens(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == tokenizer.count(text) <= len(text.encode())
    assert len(text.encode()) <= tokenizer.count(text) * tokenizer.longest_token_bytes


@given(beginning=_TEXT, rest=_TEXT)
def test_the_count_of_the_lasting_part_never_falls(
    tokenizer: ChatTokenizer, beginning: str, rest: str
) -> None:
    """Money booked as spent cannot be given back, so a later token must not lower the count."""
    assert tokenizer.parts_at_spaces
    part = lasting_part(beginning, at_spaces=True)
    assert tokenizer.count(part) <= tokenizer.count(beginning + rest)


def test_an_added_token_is_one_token_wherever_it_stands(tmp_path: Path) -> None:
    """Also in byte-level vocabularies, where it is found before a text is split."""
    from tokenizers import AddedToken, Tokenizer

    _write_tokenizer(tmp_path)
    before = ChatTokenizer(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.add_tokens([AddedToken("</think>", special=False), AddedToken(" é", special=False)])
    library.save(str(tmp_path / "tokenizer.json"))
    found = ChatTokenizer(tmp_path)
    assert found.count("</think>") == 1 and found.decode(found.tokens("a</think> é")) == (
        "a</think> é"
    )
    assert found.render([{"role": "user", "content": "</think>"}]).count(259) == 1
    assert found.parts_at_spaces and not before.parts_at_spaces
    assert lasting_part("so </think>", at_spaces=True) == "so"
    assert found.digest != before.digest


def test_a_buyer_counts_as_the_node_bills(folder: Path, tokenizer: ChatTokenizer) -> None:
    count = PlainTokenizer((folder / "tokenizer.json").read_text("utf-8")).count
    assert [count(text) for text in TEXTS] == [tokenizer.count(text) for text in TEXTS]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0]], "unk_id": 0}},
            "Unigram, and not BPE",
        ),
        (
            {"model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}},
            "WordLevel, and not BPE",
        ),
        ({"model": {"dropout": 0.1}}, "dropout"),
        ({"decoder": None}, "decoder"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "decoder"),
        ({"normalizer": {"type": "Lowercase"}}, "loses text"),
        ({"model": {"byte_fallback": False}}, "loses text"),
        ({"normalizer": {"type": "Mine"}}, "no usable tokenizer"),
        ({"model": {"merges": [["a"]]}}, "no usable tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_understood_is_refused_at_load(
    tmp_path: Path, spec: dict[str, Any], says: str
) -> None:
    """And not at the first buyer's chat, nor by a count that differs from what was sent."""
    if spec.get("model", {}).get("type"):
        folder = write_sentencepiece(tmp_path)
        told = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        told = {**told, "model": spec["model"], "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(told))
    else:
        folder = write_sentencepiece(tmp_path, **spec)
    with pytest.raises(ModelUnavailable, match=says):
        ChatTokenizer(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model": {}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_sentencepiece(tmp_path)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelUnavailable, match="no usable tokenizer"):
        ChatTokenizer(folder)


def test_a_control_token_that_takes_the_spaces_around_it_is_refused(tmp_path: Path) -> None:
    """Only where the template uses it: a mask token of this kind does no harm."""
    folder = write_sentencepiece(tmp_path)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text("utf-8"))
    for content, refused in (("<unk>", False), ("<|im_start|>", True)):
        changed = json.loads(json.dumps(told))
        for each in changed["added_tokens"]:
            each["rstrip"] = each["content"] == content
        file.write_text(json.dumps(changed))
        if refused:
            with pytest.raises(ModelUnavailable, match="rstrip"):
                ChatTokenizer(folder)
        else:
            ChatTokenizer(folder)


def test_a_base_without_a_chat_template_is_served_for_completions(tmp_path: Path) -> None:
    """Gemma's and other bases have none: chats are refused, and a training at its start."""
    found = ChatTokenizer(write_sentencepiece(tmp_path, template=None))
    assert found.encode("hello")[0] == CONTROL.index("<s>")
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        found.render([{"role": "user", "content": "hello"}])
    with pytest.raises(TrainingError, match=r"chat_template\.jinja"):
        require_an_end(found, (2,))
    found.fix_time()


def test_a_reply_is_learned_in_the_tokens_in_which_it_is_generated(tmp_path: Path) -> None:
    """Without the opening token that begins a whole text: no answer would begin with it."""
    from viz.training.dataset import rows_of
    from viz.training.packing import tokenise

    found = ChatTokenizer(write_sentencepiece(tmp_path))
    work = parse_work("text", b"# Guide\n\n## How deep is it?\n\nIt is nine metres deep here.")
    row = tokenise(rows_of(work)[0], found, 512)
    said = [row.ids[place] for place in row.supervised]
    assert CONTROL.index("<s>") not in said and found.decode(said).startswith("It is nine")


def test_the_names_of_control_tokens_may_stand_in_an_older_file(tmp_path: Path) -> None:
    """``special_tokens_map.json`` beside a configuration that does not name them."""
    folder = write_sentencepiece(tmp_path, template="{{ bos_token }}{{ messages[-1].content }}")
    settings = folder / "tokenizer_config.json"
    told = json.loads(settings.read_text())
    told["chat_template"] = (
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
    )
    named = {name: told.pop(name) for name in ("bos_token", "eos_token")}
    settings.write_text(json.dumps(told))
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    ids = ChatTokenizer(folder).render([{"role": "user", "content": "hi"}])
    assert (ids[0], ids[-1]) == (CONTROL.index("<s>"), CONTROL.index("<|im_end|>"))


@given(
    words=st.lists(st.text(st.sampled_from("<|ab>.*"), min_size=1, max_size=6), min_size=1),
    text=st.text(st.sampled_from("<|ab>.*c"), max_size=40),
)
def test_the_pattern_of_control_tokens_takes_the_longest(words: list[str], text: str) -> None:
    """The same parts as an alternation in the order of length, which is slow for thousands."""
    plain = "|".join(map(re.escape, sorted(set(words), key=lambda word: (-len(word), word))))
    assert re.split(f"({either(words)})", text) == re.split(f"({plain})", text)


def test_thousands_of_control_tokens_cost_no_more_than_one() -> None:
    """A chat of "<" alone does not hold the node: each is looked at a few times."""
    words = [f"<unused{number}>" for number in range(6_000)]
    pattern = re.compile(f"({either(words)})")
    text = "<unused" * 20_000
    assert pattern.split(text) == [text]
    assert len(pattern.pattern) < 40 * len(words)
