"""Convert text to token ids and back, and render chats with the base model's template.

Owns the canonical tokenisation (which is billed), raw prompts (which begin as the tokenizer's file
says), and the rule that control tokens come only from the model's files: the name of a control
token in a text stays plain characters. Other added tokens are recognised in any text.
``viz.basemodel.spelling`` handles the kinds of tokenizers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.detokenise import Detokeniser
from viz.basemodel.spelling import Spelling, either, space_before, without_space_before
from viz.domain.units import Hash32
from viz.errors import InvalidRequest, ModelUnavailable

if TYPE_CHECKING:
    from viz.basemodel.chat_template import ChatTemplate

ROLES: Final = frozenset({"system", "user", "assistant"})
_TOKENIZER: Final = "tokenizer.json"
_CONFIG: Final = "tokenizer_config.json"
_TEMPLATE: Final = "chat_template.jinja"
_SPECIAL_MAP: Final = "special_tokens_map.json"
_NAMES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SPECIAL: Final = tuple(f"{name}_token" for name in _NAMES)
# Unicode's private use areas. One of these characters marks places in a text during rendering.
_PRIVATE_USE: Final = (
    range(0xE000, 0xF900),
    range(0xF0000, 0xFFFFE),
    range(0x100000, 0x10FFFE),
)


class PlainTokenizer:
    """The canonical tokenisation of plain text, which is billed, from the text of a tokenizer.json.

    The names of control tokens in the text stay text. A space that the file adds before a text is
    left out, because the text may be anywhere in a prompt or an answer. So the ids decode to
    exactly the text. Raises ImportError if the tokenizers library is not installed, and the
    library's own errors for a tokenizer.json that it cannot read.
    """

    def __init__(self, tokenizer_json: str) -> None:
        self.library = _library(tokenizer_json)
        self._spaced = space_before(self.library)
        self._bare = self.library
        if self._spaced != "nowhere":
            self._bare = _library(without_space_before(tokenizer_json))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the canonical ids of plain text, without blocking other threads.

        Raises InvalidRequest if the text is not valid Unicode (a lone surrogate).
        """
        return self._encode(self._bare, text)

    def framed(self, text: str) -> tuple[int, ...]:
        """Return the ids of a complete raw prompt, with what the file adds around a text."""
        return self._encode(self.library, text, framed=True)

    def part(self, text: str, *, first: bool) -> tuple[int, ...]:
        """Return the ids of text between control tokens; ``first``: it begins the prompt."""
        spaced = self._spaced == "always" or (first and self._spaced == "first")
        return self._encode(self.library if spaced else self._bare, text)

    @staticmethod
    def _encode(library: Any, text: str, *, framed: bool = False) -> tuple[int, ...]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest("the text holds a lone surrogate: send valid UTF-8") from error
        # The library's plain `encode` would hold the interpreter's lock for the whole call.
        (found,) = library.encode_batch_fast([text], add_special_tokens=framed)
        return tuple(found.ids)

    def count(self, text: str) -> int:
        """Return how many tokens the canonical tokenisation of ``text`` has."""
        return len(self.encode(text))


class ChatTokenizer:
    """The tokenizer of one model directory (tokenizer.json and its chat template).

    ``packed`` gives the texts of the files by name if they are not on disk.
    """

    def __init__(self, directory: Path, packed: Mapping[str, str] | None = None) -> None:
        from viz.basemodel.chat_template import ChatTemplate

        try:
            texts = packed or _texts(directory)
            # Kept as text for the library. Its JSON is parsed only for a digest, because parsing
            # takes a quarter of the time of loading.
            self._tokenizer_json = texts[_TOKENIZER]
            named = json.loads(texts[_SPECIAL_MAP]) if _SPECIAL_MAP in texts else {}
            self._config: dict[str, Any] = {**named, **json.loads(texts[_CONFIG])}
            self._template_text = _template(self._config, texts.get(_TEMPLATE))
            self._plain = PlainTokenizer(self._tokenizer_json)
            self._spelling = Spelling(self._plain.library)
            self._spelling.require_lossless(self._plain.encode)
        except Exception as error:
            raise ModelUnavailable(f"{directory} has no usable tokenizer: {error}") from error
        self._template: ChatTemplate | None = None
        if self._template_text is not None:
            special = {name: told for name in _SPECIAL if (told := self._named(name))}
            self._template = ChatTemplate(self._template_text, special)
        self._control = self._spelling.control
        self._splitter = re.compile(f"({either(self._control) if self._control else '(?!)'})")
        self._require_one_opening(directory)
        self._require_plain_control(directory)

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
        # Added only if there are any, so that the digests of other tokenizers stay the same.
        added = self._spelling.added.items()
        if found := {each.content: i for i, each in added if not each.special}:
            essence["added"] = found
        if not self._spelling.is_byte_level:
            essence["byte_fallback"] = bool(model.get("byte_fallback"))
        text = json.dumps(essence, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return Hash32(hashlib.sha256(text.encode()).digest())

    @cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """The bytes of every ordinary token; control tokens are absent."""
        return self._spelling.table

    @property
    def parts_at_spaces(self) -> bool:
        """Whether a text may be counted in parts only if it is split at spaces."""
        return self._spelling.merges_over_signs

    @cached_property
    def longest_token_bytes(self) -> int:
        """The most bytes of text that one token can stand for."""
        return max(map(len, self.token_bytes.values()))

    @property
    def has_template(self) -> bool:
        """Whether chats can be rendered: a base model without chat training has no template."""
        return self._template is not None

    def fix_time(self) -> None:
        """Render chats with one fixed day from now on, so that results are repeatable."""
        if self._template is not None:
            self._template.fix_time()

    @cached_property
    def frame_tokens(self) -> int:
        """How many control tokens surround every raw prompt; they are not billed."""
        return len(self.encode(""))

    @cached_property
    def message_tokens(self) -> int:
        """The fewest tokens by which one more message lengthens any chat; 0 without a template.

        Measured, because the template decides: by each role and by texts that may be trimmed or
        join with the template's own.
        """
        chat = [{"role": "user", "content": "?"}]
        fewest: list[int] = []
        for roles in (("assistant", "user"), *((role,) for role in sorted(ROLES))):
            for text in ("", " ", "\n"):
                more = [{"role": role, "content": text} for role in roles]
                try:
                    added = len(self.render([*chat, *more])) - len(self.render(chat))
                except InvalidRequest:
                    continue  # the template refuses this order, so no such chat is served
                fewest.append(max(0, added) // len(roles))
        return min(fewest, default=0)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a raw prompt, with the opening token that the tokenizer defines.

        Control tokens that are written in the text stay characters. Raises InvalidRequest if the
        text is not valid Unicode (a lone surrogate).
        """
        return self._plain.framed(text)

    def count_prompt(self, text: str) -> int:
        """Return the billed tokens of a raw prompt: those of ``encode`` without the frame."""
        return len(self.encode(text)) - self.frame_tokens

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
        self, messages: Sequence[Mapping[str, str]], so_far: str = "", *, reply: bool = True
    ) -> tuple[int, ...]:
        """Return the ids of a chat by the model's template, ending where the reply begins.

        The result equals the rendered template, tokenised as one text, except that the names of
        control tokens in a message stay plain text. ``so_far`` is the beginning of the reply: its
        canonical ids follow. ``reply`` False renders a finished chat (training). Raises
        InvalidRequest for an empty chat, an unknown role, content that is not text, or if the base
        model has no chat template.
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
        for place, part in enumerate(self._splitter.split(rendered)):
            if place % 2:  # what the splitter found
                ids.append(self._control[part])
            elif part:
                text = unveil.sub(lambda found: names[found[1]], part)
                ids += self._plain.part(text, first=place == 0)
        return (*ids, *self.tokens(so_far)) if so_far else tuple(ids)

    @cached_property
    def reply_end(self) -> int | None:
        """The control token with which the template ends an assistant's turn; None if none."""
        if self._template is None:
            return None
        mark = chr(_PRIVATE_USE[0][0])
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        _, found, rest = self._render(turns, False).rpartition(mark)
        named = self._splitter.search(rest) if found else None
        return self._control[named[0]] if named else None

    def _render(self, messages: list[dict[str, str]], reply: bool) -> str:
        if self._template is None:
            raise InvalidRequest(
                "the base model has no chat template: send a prompt to /v1/completions"
            )
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

    def _require_plain_control(self, directory: Path) -> None:
        """Raise ModelUnavailable if a control token of the template absorbs spaces around it."""
        for each in self._spelling.added.values():
            takes = each.special and (each.lstrip or each.rstrip or each.single_word)
            if takes and each.content in (self._template_text or ""):
                raise ModelUnavailable(
                    f"{directory}: the chat template uses {each.content[:40]!r}, which "
                    "tokenizer.json defines with lstrip, rstrip or single_word: this is not "
                    "supported"
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
    names += [name for name in (_TEMPLATE, _SPECIAL_MAP) if (directory / name).exists()]
    return {name: (directory / name).read_text("utf-8") for name in names}


def _template(config: Mapping[str, Any], separate: str | None) -> str | None:
    """Return the text of the chat template; None if the model has none."""
    if separate is not None:
        return separate
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {each["name"]: each["template"] for each in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _library(tokenizer_json: str) -> Any:
    from tokenizers import Tokenizer

    library: Any = Tokenizer.from_str(tokenizer_json)
    library.encode_special_tokens = True
    # A tokenizer.json may still have the truncation of a training run, which would cut texts.
    library.no_truncation()
    library.no_padding()
    return library
