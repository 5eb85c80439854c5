"""Clean the text of a source: no control characters, nothing hidden, no control tokens.

Owns what is not allowed in a work and what replaces it. A tokenizer turns a string such as
``<|im_end|>`` into one token that ends a turn. In a work it would teach a model to end its answers,
or let a source write the turns of a chat. A space after its first character makes it ordinary text
that people can still read. Invariant: cleaning twice gives the same as cleaning once.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

# Of the chat templates in use: ChatML, Llama 2 to 4, Mistral, Gemma, Phi, DeepSeek, Command R,
# BERT, T5, and the marks for files and for filling in the middle, among them all of the default
# base.
_FORMS: Final = (
    r"<[|\uff5c][^<>|\uff5c\n]{1,64}[|\uff5c]>",
    r"\[/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG|PREFIX"
    r"|MIDDLE|SUFFIX|CLS|SEP|MASK|PAD|UNK|BOS|EOS|gMASK|sMASK)\]",
    r"<</?SYS>>",
    r"</?(?:s|bos|eos|pad|unk|mask|sop|eop|start_of_turn|end_of_turn|start_of_image|end_of_image"
    r"|tool_call|tool_response|think|begin_of_text|end_of_text|start_header_id|end_header_id|eot_id"
    r"|fim_prefix|fim_middle|fim_suffix|fim_pad|repo_name|reponame|file_sep|filename|gh_stars"
    r"|issue_start|issue_comment|issue_closed|jupyter_start|jupyter_text|jupyter_code"
    r"|jupyter_output|jupyter_script|empty_output"
    r"|unused\d{1,4}|extra_id_\d{1,3}|reserved_\d{1,4})>",
)
CONTROL_TOKENS: Final = re.compile("|".join(_FORMS))
# Control characters except line breaks and tabs; halves of surrogate pairs; noncharacters.
_CONTROLS: Final = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
# Invisible characters that reverse, hide or carry text: direction overrides, tag characters, soft
# hyphens, zero-width spaces. Joiners stay, because some scripts need them.
_HIDDEN: Final = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
_LINE_ENDS: Final = re.compile("\r\n|\r|\x85|\u2028")
_PAGE_ENDS: Final = re.compile("[\x0b\x0c\u2029]")
_GAPS: Final = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def cleaned(text: str, counts: Counter[str]) -> str:
    """Return ``text`` cleaned; add the number of changes to ``counts``, by name."""
    text = _PAGE_ENDS.sub("\n\n", _LINE_ENDS.sub("\n", text))
    text, controls = _CONTROLS.subn("", text)
    text, hidden = _HIDDEN.subn("", text)
    text, tokens = CONTROL_TOKENS.subn(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    for name, count in (
        ("control characters removed", controls),
        ("hidden characters removed", hidden),
        ("control tokens of chat templates made ordinary text", tokens),
    ):
        if count:
            counts[name] += count
    return text


def as_paragraphs(text: str) -> str:
    """Return ``text`` with one blank line between paragraphs and one line break at its end."""
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return _GAPS.sub("\n\n", lines).strip("\n") + "\n"
