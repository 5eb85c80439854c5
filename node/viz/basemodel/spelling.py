"""Map the tokens of a tokenizer.json to bytes, and find out what it puts before a text.

Owns the two supported kinds of BPE: byte-level (GPT-2 and its followers), and SentencePiece with
byte fallback, where U+2581 stands for a space. Invariant: a tokenizer is accepted only if texts in
many scripts are the same after encoding and decoding, so that the counted text is the text sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final, Literal

from viz.basemodel.detokenise import Detokeniser, byte_alphabet

# Where the tokenizer adds a space: nowhere, before the whole text, or before each part between
# control tokens.
SpaceBefore = Literal["nowhere", "first", "always"]
_SPACE: Final = "\u2581"
_BYTE: Final = re.compile("<0x([0-9A-F]{2})>")
_KNOWN_DECODERS: Final = frozenset({"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip"})
_MEMBERS: Final = ("normalizers", "pretokenizers", "decoders")
_PROBES: Final = (
    "The 3rd café's naïve test, isn't it? (Yes!)",
    "a\n\n\tb  c \r\n",
    "日本語 русский العربية हिन्दी ไทย 한국어",
    "🙂👍🏽 ∑ \x07\x7f",
)


class UnknownTokenizer(ValueError):
    """The tokenizer is of an unsupported kind; the message says which."""


class Spelling:
    """The bytes of each token of one tokenizer (a ``tokenizers.Tokenizer``).

    Raises UnknownTokenizer if its kind is not supported.
    """

    def __init__(self, library: Any) -> None:
        self._library, model = library, library.model
        if type(model).__name__ != "BPE":
            raise UnknownTokenizer(f"its model is {type(model).__name__}, and not BPE")
        if model.dropout:
            raise UnknownTokenizer("its BPE drops merges at random (dropout)")
        if model.continuing_subword_prefix or model.end_of_word_suffix:
            raise UnknownTokenizer("its BPE marks the beginnings or ends of words")
        steps = list(_parts(library.decoder))
        kinds = {step["type"] for step in steps}
        self.is_byte_level = "ByteLevel" in kinds
        spaced = any(
            step["type"] == "Metaspace"
            or (step["type"] == "Replace" and step.get("pattern") == {"String": _SPACE})
            for step in steps
        )
        if not (self.is_byte_level or spaced) or kinds - _KNOWN_DECODERS - {"Metaspace"}:
            raise UnknownTokenizer(
                f"its decoder ({', '.join(sorted(kinds)) or 'none'}) is neither that of byte-level "
                "BPE nor that of SentencePiece"
            )
        self._alphabet = byte_alphabet()
        self.added: dict[int, Any] = library.get_added_tokens_decoder()
        self.control = {each.content: i for i, each in self.added.items() if each.special}

    @cached_property
    def table(self) -> dict[int, bytes]:
        """The bytes of every ordinary token; control tokens are absent."""
        control = set(self.control.values())
        return {
            token_id: self._bytes_of(token_id, token)
            for token, token_id in self._library.get_vocab(with_added_tokens=True).items()
            if token_id not in control
        }

    @property
    def merges_over_signs(self) -> bool:
        """Whether a token may span a word and the sign after it.

        If so, a text may be counted in parts only where they are split at spaces. SentencePiece
        does not split a text before it merges, and added tokens ("</think>") are found before a
        text is split.
        """
        return not self.is_byte_level or any(
            len(each.content) > 1 and not each.special and not each.content.isspace()
            for each in self.added.values()
        )

    def require_lossless(self, encode: Any) -> None:
        """Raise UnknownTokenizer if a text changes by encoding and decoding."""
        for probe in _PROBES:
            ids = encode(probe)
            table = {i: self._bytes_of(i, self._library.id_to_token(i)) for i in ids}
            decoder = Detokeniser({i: table[i] for i in table if i not in self.control.values()})
            back = decoder.push(ids) + decoder.flush()
            if back != probe:
                raise UnknownTokenizer(f"it loses text: {probe[:30]!r} is decoded as {back[:30]!r}")

    def _bytes_of(self, token_id: int, token: str) -> bytes:
        if (added := self.added.get(token_id)) is not None:
            # It is matched in the text as written, or in the text with its spaces replaced.
            spaced = added.normalized and not self.is_byte_level
            return (token.replace(_SPACE, " ") if spaced else token).encode()
        if self.is_byte_level:
            alphabet = self._alphabet
            return b"".join(bytes((alphabet[c],)) if c in alphabet else c.encode() for c in token)
        if self._library.model.byte_fallback and (found := _BYTE.fullmatch(token)):
            return bytes.fromhex(found[1])
        return token.replace(_SPACE, " ").encode()


def space_before(library: Any) -> SpaceBefore:
    """Return where the tokenizer adds a space that the text does not have."""
    found: SpaceBefore = "nowhere"
    for step in (*_parts(library.normalizer), *_parts(library.pre_tokenizer)):
        scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space") else "never")
        if step["type"] == "Prepend" or scheme == "always":
            return "always"
        if scheme == "first":
            found = "first"
    return found


def without_space_before(tokenizer_json: str) -> str:
    """Return the same tokenizer without the space that it adds before a text."""
    told = json.loads(tokenizer_json)
    for stage in ("normalizer", "pre_tokenizer"):
        told[stage] = _bare(told.get(stage))
    return json.dumps(told, ensure_ascii=False)


def either(words: Iterable[str]) -> str:
    """Return a pattern that matches the longest of these words, in time linear in the text.

    Some vocabularies have thousands of control tokens. A plain alternation would compare each "<"
    of a text with all of them.
    """
    branches = []
    groups: dict[str, list[str]] = {}
    for word in sorted(set(words)):
        groups.setdefault(word[:1], []).append(word)
    for group in groups.values():
        prefix = _shared_beginning(group)
        rest = [word[len(prefix) :] for word in group if word != prefix]
        tail = f"(?:{either(rest)}){'?' if prefix in group else ''}" if rest else ""
        branches.append(re.escape(prefix) + tail)
    return "|".join(branches)


def _shared_beginning(words: Sequence[str]) -> str:
    """Return the longest common prefix of sorted words."""
    first, last = words[0], words[-1]
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[: min(len(first), len(last)) if length is None else length]


def _parts(component: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer, pre-tokenizer or decoder of the library, as JSON."""
    if component is not None:
        yield from _flat(json.loads(component.__getstate__()))


def _flat(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner: Sequence[dict[str, Any]] = next((told[m] for m in _MEMBERS if m in told), ())
    if told["type"] == "Sequence":
        for step in inner:
            yield from _flat(step)
    else:
        yield told


def _bare(told: Any) -> Any:
    """Return a normalizer or pre-tokenizer (JSON) without the step that adds a space."""
    if not isinstance(told, dict) or told.get("type") == "Prepend":
        return None
    for members in _MEMBERS:
        if isinstance(told.get(members), list):
            kept = [bare for each in told[members] if (bare := _bare(each)) is not None]
            return {**told, members: kept}
    changed = dict(told)
    if "prepend_scheme" in told or told.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
        changed.pop("add_prefix_space", None)
    elif "add_prefix_space" in told:
        changed["add_prefix_space"] = False
    return changed
