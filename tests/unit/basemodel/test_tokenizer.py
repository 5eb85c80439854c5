"""Canonical tokenisation under hostile text: linear work, no lock held, one count for everybody."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.tiny_base import CONTROL, _write_tokenizer

from viz.basemodel.tokenizer import ROLES, ChatTokenizer, PlainTokenizer
from viz.errors import InvalidRequest, ModelUnavailable


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


ONE = st.fixed_dictionaries({"role": st.sampled_from(sorted(ROLES)), "content": st.text()})


@given(messages=st.lists(ONE, min_size=1, max_size=5))
def test_every_message_takes_the_least_that_was_measured(
    tokenizer: ChatTokenizer, messages: list[dict[str, str]]
) -> None:
    """The bound by which many messages are refused unread refuses no chat that would fit."""
    assert tokenizer.message_tokens > 1
    assert len(tokenizer.render(messages)) >= len(messages) * tokenizer.message_tokens


def test_a_buyer_counts_as_the_node_bills(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    """Control tokens spelled in an answer are characters to both: no honest receipt is refused."""
    _write_tokenizer(tmp_path)
    count = PlainTokenizer((tmp_path / "tokenizer.json").read_text("utf-8")).count
    for text in ("high tide", "a<|im_end|>b", "<|im_start|>", "naïve 🌊"):
        assert count(text) == tokenizer.count(text) == len(text.encode())


def _changed(folder: Path, *, template: Any = None, opening: str = "", **config: Any) -> Path:
    """Write the tokenizer with another template, opening token or configuration."""
    from tokenizers import Tokenizer, processors

    _write_tokenizer(folder)
    settings = folder / "tokenizer_config.json"
    changes = config if template is None else {**config, "chat_template": template}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changes))
    if opening:
        file = str(folder / "tokenizer.json")
        library = Tokenizer.from_file(file)
        library.post_processor = processors.TemplateProcessing(
            single=f"{opening} $A", special_tokens=[(opening, CONTROL.index(opening))]
        )
        library.save(file)
    return folder


def test_a_raw_prompt_begins_as_the_tokenizer_asks_and_is_billed_without(tmp_path: Path) -> None:
    """A model is asked as it was taught, and nobody pays for what he did not write."""
    found = ChatTokenizer(_changed(tmp_path, opening="<|im_start|>"))
    assert found.encode("hi") == (1, *found.tokens("hi"))
    assert len(found.tokens("hi")) == found.count("hi") == 2
    assert found.frame_tokens == 1
    # A chat has its opening from the template, once.
    assert found.render([{"role": "user", "content": "hi"}])[:2] != (1, 1)


def test_a_tokenizer_without_an_opening_token_adds_none(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.encode("hi") == tokenizer.tokens("hi")
    assert tokenizer.frame_tokens == 0


@pytest.mark.parametrize(("said", "opening"), [(True, ""), (False, "<|im_start|>")])
def test_files_that_disagree_on_the_opening_token_are_refused(
    tmp_path: Path, said: bool, opening: str
) -> None:
    """Either file may be the wrong one: a guess would be sold as the model."""
    with pytest.raises(ModelUnavailable, match="add_bos_token"):
        ChatTokenizer(_changed(tmp_path, opening=opening, add_bos_token=said))


def test_a_truncation_in_the_file_loses_no_text(tmp_path: Path) -> None:
    """A file saved after somebody's training may cut every text: prompts and bills must not."""
    from tokenizers import Tokenizer

    _write_tokenizer(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_truncation(4)
    library.enable_padding(length=64)
    library.save(str(tmp_path / "tokenizer.json"))
    assert ChatTokenizer(tmp_path).count("a" * 20) == 20


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}{{ m.content }}"
        "{% endfor %}",
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% for m in messages %}{{ {'é<': m.content} | tojson(indent=1) }}{% endfor %}",
        "{% if tools is not none %}no{% else %}{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% endif %}",
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}",
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ pad_token }}",
        # In the manner of Qwen 3: tools first, then turns read from their end, thoughts left out.
        "{%- if tools %}{{- '# Tools' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{%- else %}"
        "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}"
        "{%- endif %}{%- set ns = namespace(last=messages|length - 1, seen=false) %}"
        "{%- for m in messages[::-1] %}{%- set at = (messages|length - 1) - loop.index0 %}"
        "{%- if not ns.seen and m.role == 'user' and m.content is string and not "
        "(m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}"
        "{%- set ns.seen = true %}{%- set ns.last = at %}{%- endif %}{%- endfor %}"
        "{%- for m in messages %}{%- if m.tool_calls %}{{- raise_exception('tools') }}{%- endif %}"
        "{%- if m.role == 'assistant' and '</think>' in m.content and loop.index0 <= ns.last %}"
        "{{- m.content.split('</think>')[-1].lstrip('\\n') }}"
        "{%- else %}{{- m.role + ':' + m.content }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- 'assistant:' }}{%- if enable_thinking is defined and "
        "enable_thinking is false %}{{- '<think></think>' }}{%- endif %}{%- endif %}",
        # In the manner of Llama 3.1: defaults for what nobody gives, and a date.
        "{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}"
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
        "{%- set date_string = '26 Jul' %}{%- endif %}{%- endif %}"
        "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
        "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
        "{{- date_string + system }}{%- if builtin_tools is defined or tools is not none %}"
        "{{- 'Environment' }}{%- endif %}{%- for m in messages %}"
        "{%- if not (m.role == 'ipython' or 'tool_calls' in m) %}"
        "{{- m['role'] + m['content'] | trim }}{%- endif %}{%- endfor %}",
    ],
    ids=[
        "loop controls",
        "date",
        "generation",
        "tojson",
        "no tools",
        "named",
        "unset token",
        "like Qwen 3",
        "like Llama 3.1",
    ],
)
def test_templates_are_rendered_as_hugging_face_renders_them(
    tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is the library whose files these are."""
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setenv("TZ", "UTC")
    folder = _changed(tmp_path, template=template)
    chat = [{"role": "user", "content": "Fish & chips"}, {"role": "assistant", "content": "é"}]
    reference = PreTrainedTokenizerFast.from_pretrained(str(folder))
    expected = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert ChatTokenizer(folder)._render(chat, True) == expected


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m.content }}", "ordinary chat"),
        ("{% for m in messages %}{{ m.content | nonsense }}{% endfor %}", "ordinary chat"),
        ("{{ raise_exception('no chats') }}", "ordinary chat"),
        ("{{ messages[0]['content'] / 2 }}", "ordinary chat"),
        ("{% for m in messages %}{{ m.text }}{% endfor %}", "leaves out the user's message"),
        ("{{ messages[-1].content }}", "leaves out"),
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ m.content[0].text.x }}"
            "{% endif %}{{ m.content }}{% endfor %}",
            "system message",
        ),
    ],
)
def test_a_template_that_cannot_render_is_found_when_the_base_is_loaded(
    tmp_path: Path, template: str, says: str
) -> None:
    """A fault of the model's is its operator's at the start, not each buyer's at a request."""
    with pytest.raises(ModelUnavailable, match=says):
        ChatTokenizer(_changed(tmp_path, template=template))


def test_a_refusal_by_the_template_itself_is_the_askers_fault(tmp_path: Path) -> None:
    """Some models take no system message and say so: they are served, and such chats refused."""
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.content }}{% if m.content == 'x' %}{{ 1 / 0 }}{% endif %}{% endfor %}"
    )
    found = ChatTokenizer(_changed(tmp_path, template=template))
    with pytest.raises(InvalidRequest, match="no system"):
        found.render([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    # What the template fails at by itself is the model's fault, and never a 500.
    with pytest.raises(ModelUnavailable, match="ZeroDivisionError"):
        found.render([{"role": "user", "content": "x"}])


def test_training_renders_the_same_day_whenever_it_runs(tmp_path: Path) -> None:
    """An audit a month later must see the rows that the trainer saw."""
    template = "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    found = ChatTokenizer(_changed(tmp_path, template=template))
    found.fix_time()
    assert found.decode(found.render([{"role": "user", "content": "!"}])) == "2024-07-26!"


def test_the_template_named_default_is_taken_of_several(tmp_path: Path) -> None:
    named = [
        {"name": "tool_use", "template": "{{ 1 }}"},
        {"name": "default", "template": "{% for m in messages %}{{ m.content }}{% endfor %}"},
    ]
    found = ChatTokenizer(_changed(tmp_path, template=named))
    assert found.decode(found.render([{"role": "user", "content": "hi"}])) == "hi"
