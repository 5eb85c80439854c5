"""Convert text to token ids and back, and render chats with the base model's template.

Owns the canonical tokenisation (which is billed), raw prompts (which begin as the tokenizer's file
says), and the rule that control tokens come only from the model's files: a control token that is
written in a text stays plain characters. Supports byte-level BPE tokenizers only (the Llama 3 and
SmolLM families).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.detokenise import Detokeniser, byte_alphabet
from viz.domain.units import Hash32
from viz.errors import InvalidRequest, ModelUnavailable

if TYPE_CHECKING:
    from viz.basemodel.chat_template import ChatTemplate

ROLES: Final = frozenset({"system", "user", "assistant"})
_TOKENIZER: Final = "tokenizer.json"
_CONFIG: Final = "tokenizer_config.json"
_TEMPLATE: Final = "chat_template.jinja"
_NAMES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SPECIAL: Final = tuple(f"{name}_token" for name in _NAMES)
# Unicode's private use areas. One of these characters marks places in a text during rendering.
_PRIVATE_USE: Final = (
    range(0xE000, 0xF900),
    range(0xF0000, 0xFFFFE),
    range(0x100000, 0x10FFFE),
)


class PlainTokenizer:
    """The canonical tokenisation of plain text by the text of a tokenizer.json, which is billed.

    Control tokens that are written in the text stay text. Raises ImportError if the tokenizers
    library is not installed, and the library's own errors for a text that it cannot read.
    """

    def __init__(self, tokenizer_json: str) -> None:
        from tokenizers import Tokenizer

        self.library: Any = Tokenizer.from_str(tokenizer_json)
        self.library.encode_special_tokens = True
        # A tokenizer.json may contain the truncation of a training run: it would cut the text.
        self.library.no_truncation()
        self.library.no_padding()

    def encode(self, text: str, *, framed: bool = False) -> tuple[int, ...]:
        """Return the canonical ids of plain text, without blocking other threads.

        ``framed`` adds the control tokens that the file puts around every text. Raises
        InvalidRequest if the text is not valid Unicode (a lone surrogate).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest("the text holds a lone surrogate: send valid UTF-8") from error
        # The library's plain `encode` would hold the interpreter's lock for the whole call.
        (found,) = self.library.encode_batch_fast([text], add_special_tokens=framed)
        return tuple(found.ids)

    def count(self, text: str) -> int:
        """Return how many tokens the canonical tokenisation of ``text`` has."""
        return len(self.encode(text))


class ChatTokenizer:
    """The tokenizer of one model directory (tokenizer.json and its chat template).

    ``packed`` gives the texts of the directory's files by name, where they are not on disk.
    """

    def __init__(self, directory: Path, packed: Mapping[str, str] | None = None) -> None:
        from viz.basemodel.chat_template import ChatTemplate

        try:
            texts = packed or _texts(directory)
            # Kept as text: only the library reads it. Its JSON is parsed again for a digest alone,
            # because that takes a quarter of what loading takes.
            self._tokenizer_json = texts[_TOKENIZER]
            self._config: dict[str, Any] = json.loads(texts[_CONFIG])
            self._template_text = _template(directory, self._config, texts.get(_TEMPLATE))
            self._plain = PlainTokenizer(self._tokenizer_json)
        except Exception as error:
            raise ModelUnavailable(f"{directory} has no usable tokenizer: {error}") from error
        special = {name: told for name in _SPECIAL if (told := self._named(name))}
        self._template: ChatTemplate = ChatTemplate(self._template_text, special)
        library = self._plain.library
        if type(library.decoder).__name__ != "ByteLevel":
            raise ModelUnavailable(f"{directory}: only byte-level BPE tokenizers are supported")
        self._control: dict[str, int] = {
            added.content: token_id
            for token_id, added in library.get_added_tokens_decoder().items()
            if added.special
        }
        spelled = sorted(map(re.escape, self._control), key=len, reverse=True)
        self._splitter = (
            re.compile("(" + "|".join(spelled) + ")") if spelled else re.compile("(?!)")
        )

        self._require_one_opening(directory)

    @cached_property
    def digest(self) -> Hash32:
        """Digest of all that determines ids: vocabulary, merges, splitting, control, template."""
        spec = json.loads(self._tokenizer_json)
        model = spec["model"]
        essence = {
            "vocabulary": model["vocab"],
            "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
            "normalizer": spec.get("normalizer"),
            "pre_tokenizer": spec.get("pre_tokenizer"),
            "control": self._control,
            "template": self._template_text,
        }
        text = json.dumps(essence, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return Hash32(hashlib.sha256(text.encode()).digest())

    @cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """The bytes of every ordinary token; control tokens are absent."""
        alphabet, control = byte_alphabet(), set(self._control.values())
        return {
            token_id: b"".join(
                bytes((alphabet[c],)) if c in alphabet else c.encode() for c in token
            )
            for token, token_id in self._plain.library.get_vocab(with_added_tokens=True).items()
            if token_id not in control
        }

    @cached_property
    def longest_token_bytes(self) -> int:
        """The most bytes of text that one token can stand for."""
        return max(map(len, self.token_bytes.values()))

    def fix_time(self) -> None:
        """Render chats with one fixed day from now on, so that results are repeatable."""
        self._template.fix_time()

    @cached_property
    def frame_tokens(self) -> int:
        """How many control tokens surround every raw prompt; they are not billed."""
        return len(self.encode(""))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a raw prompt, with the opening token that the tokenizer defines.

        Control tokens that are written in the text stay characters. Raises InvalidRequest if the
        text is not valid Unicode (a lone surrogate).
        """
        return self._plain.encode(text, framed=True)

    def tokens(self, text: str) -> tuple[int, ...]:
        """Return the canonical ids of text within a prompt or an answer; raises as ``encode``."""
        return self._plain.encode(text)

    def count(self, text: str) -> int:
        """Return how many tokens the canonical tokenisation of ``text`` has."""
        return self._plain.count(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without control tokens; broken UTF-8 becomes U+FFFD."""
        decoder = Detokeniser(self.token_bytes)
        return decoder.push(ids) + decoder.flush()

    def token_text(self, token_id: int) -> str:
        """Return one token as text for display: control tokens by name, partial bytes as U+FFFD."""
        raw = self.token_bytes.get(token_id)
        if raw is None:
            return self._plain.library.id_to_token(token_id) or ""
        return raw.decode("utf-8", errors="replace")

    def render(
        self, messages: Sequence[Mapping[str, str]], *, reply: bool = True
    ) -> tuple[int, ...]:
        """Return the ids of a chat by the model's template, ending where the reply begins.

        The result equals the rendered template, tokenised as one text, except that control tokens
        that are written in a message stay plain text. ``reply`` False renders a finished chat
        (training). Raises InvalidRequest for an empty chat, an unknown role or content that is not
        text.
        """
        # Control tokens in the messages are replaced by marks before rendering and put back as
        # plain text after the split: so only the template's own become control tokens.
        if not messages:
            raise InvalidRequest("messages is empty: send at least one message")
        contents = [_checked(message) for message in messages]
        mark = _absent_mark(contents)
        veiled = [
            {
                "role": message["role"],
                "content": self._splitter.sub(_veil(self._control, mark), text),
            }
            for message, text in zip(messages, contents, strict=True)
        ]
        rendered = self._render(veiled, reply)
        names = {str(place): name for name, place in self._control.items()}
        unveil = re.compile(f"{mark}([0-9]+){mark}")
        ids: list[int] = []
        for part in self._splitter.split(rendered):
            if part in self._control:
                ids.append(self._control[part])
            elif part:
                ids += self.tokens(unveil.sub(lambda found: names[found[1]], part))
        return tuple(ids)

    @cached_property
    def reply_end(self) -> int | None:
        """The control token with which the template ends an assistant's turn; None if none."""
        mark = chr(_PRIVATE_USE[0][0])
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        _, found, rest = self._render(turns, False).rpartition(mark)
        named = self._splitter.search(rest) if found else None
        return self._control[named[0]] if named else None

    def _render(self, messages: list[dict[str, str]], reply: bool) -> str:
        return self._template.render(messages, reply=reply)

    def _require_one_opening(self, directory: Path) -> None:
        """Raise ModelUnavailable if the two files differ on the token before every text."""
        said, opening = self._config.get("add_bos_token"), self.encode("")[:1]
        begins = bool(opening) and opening[0] == self._control.get(self._named("bos_token"))
        if isinstance(said, bool) and said != begins:
            raise ModelUnavailable(
                f"{directory}: tokenizer_config.json has add_bos_token {str(said).lower()}, and "
                f"tokenizer.json {'puts it' if begins else 'does not put it'} before a text: make "
                "them agree, so that prompts begin as they did in training"
            )

    def _named(self, which: str) -> str:
        token = self._config.get(which) or ""
        return str(token.get("content", "") if isinstance(token, dict) else token)


def _checked(message: Mapping[str, str]) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, str):
        raise InvalidRequest("a message's content is not text")
    if message.get("role") not in ROLES:
        raise InvalidRequest(f"unknown role {str(message.get('role'))[:40]!r}: use {sorted(ROLES)}")
    return content


def _absent_mark(contents: Sequence[str]) -> str:
    """Return a private-use character that no content contains.

    The mark is always one character. A longer mark, chosen to be absent from a hostile text, would
    cost repeated searches, and would lengthen the text at every control token written in it.
    """
    used: set[str] = set().union(*contents)
    for block in _PRIVATE_USE:
        for code in block:
            if chr(code) not in used:
                return chr(code)
    raise InvalidRequest("the messages use all of Unicode's private characters: send text")


def _veil(control: Mapping[str, int], mark: str) -> Any:
    return lambda found: f"{mark}{control[found[1]]}{mark}"


def _texts(directory: Path) -> dict[str, str]:
    names = [_TOKENIZER, _CONFIG]
    if (directory / _TEMPLATE).exists():
        names.append(_TEMPLATE)
    return {name: (directory / name).read_text("utf-8") for name in names}


def _template(directory: Path, config: Mapping[str, Any], separate: str | None) -> str:
    if separate is not None:
        return separate
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {each["name"]: each["template"] for each in template}
        template = named.get("default")
    if not isinstance(template, str):
        raise ModelUnavailable(f"{directory} has no chat template")
    return template
