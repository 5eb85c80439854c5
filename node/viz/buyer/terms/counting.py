"""Count the tokens that a node may bill: exactly if the tokenizer is known here, else as a bound.

Owns the count of a request's prompt and of the text that arrived, and where a tokenizer is found.

With the tokenizer that the quote names, both counts are exact: the prompt is rendered with the
model's own template. Without it, both are upper bounds. Every token of the vocabularies that nodes
serve spells at least one byte, so a text has at most as many tokens as bytes. For what a template
adds, the most that any template in use adds is taken; for the space that some tokenizers put before
a raw prompt, one token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from viz.basemodel.packaged import find_tokenizer
from viz.buyer.terms.request import AskedRequest
from viz.domain.units import Hash32, hex_of
from viz.errors import VizError

# A default system message with its markers: Llama's and SmolLM's take 25 to 40 tokens.
TEMPLATE_TOKENS: Final = 64
# The role and the markers of a message, even if a vocabulary spells them letter by letter.
TEMPLATE_TOKENS_PER_MESSAGE: Final = 16

TokenCount = Callable[[str], int]
_log = structlog.get_logger()


class Tokenizer(Protocol):
    """What counting needs of a base model's tokenizer."""

    def count(self, text: str) -> int: ...

    def count_prompt(self, text: str) -> int: ...

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> Sequence[int]: ...


class Counter:
    """Counts tokens as a node bills them. ``exact`` is False if it can only bound their number."""

    def __init__(
        self, tokenizer: Tokenizer | None = None, count_tokens: TokenCount | None = None
    ) -> None:
        """``count_tokens`` counts plain text if there is no ``tokenizer``."""
        self._tokenizer = tokenizer
        self._count = tokenizer.count if tokenizer else count_tokens
        self.exact = self._count is not None

    def text_tokens(self, text: str) -> int:
        """Return how many tokens a text has; an upper bound if ``exact`` is False."""
        return self._count(text) if self._count else len(text.encode())

    def prompt_tokens(self, asked: AskedRequest) -> int:
        """Return how many tokens the prompt has; an upper bound if the template is not known."""
        texts, messages = asked.texts(), asked.messages()
        if self._tokenizer is not None and messages is not None:
            try:
                return len(self._tokenizer.render(messages, asked.so_far))
            except VizError:
                pass  # the node refuses it too; if it does not, it may bill at most the bound
        if not asked.is_chat and self._tokenizer is not None:
            return sum(map(self._tokenizer.count_prompt, texts))
        tokens = sum(map(self.text_tokens, texts))
        if not asked.is_chat:
            return tokens if self.exact else tokens + len(texts)
        return tokens + TEMPLATE_TOKENS + len(texts) * TEMPLATE_TOKENS_PER_MESSAGE


class Counters:
    """The counters of one buyer, by the digest of the tokenizer that a node names."""

    def __init__(self, folder: Path, count_tokens: TokenCount | None = None) -> None:
        """``folder`` holds model directories with further tokenizers."""
        self._folder = folder
        self._count_tokens = count_tokens
        self._known: dict[Hash32, Counter] = {}

    def of(self, digest: Hash32) -> Counter:
        """Return the counter for a tokenizer; warn once if the tokenizer is not known. Blocks."""
        if digest not in self._known:
            counter = Counter(find_tokenizer(digest, self._folder), self._count_tokens)
            self._known[digest] = counter
            if not counter.exact:
                _log.warning(
                    "what this node bills is not counted again, only bounded by the bytes of the "
                    "text: its tokenizer is not known here. Put the tokenizer.json and "
                    f"tokenizer_config.json of its base model into a folder in {self._folder}",
                    digest=hex_of(digest),
                )
        return self._known[digest]


class TextCount:
    """Counts the tokens of one growing text, and counts it again only after it grew by much.

    Between two counts every new byte is taken for one token. New text may change how the end of the
    counted text is split, so the sum can be one or two tokens too low. For a receipt the whole text
    is therefore counted again.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counted = 0
        self._bytes = 0
        self._since = 0

    def grew(self, text: str, more_bytes: int) -> int:
        """Return at most how many tokens ``text`` has, after it grew by ``more_bytes``.

        The class says by how much the result can be too low.
        """
        self._bytes += more_bytes
        self._since += more_bytes
        if self._counter.exact and self._since > max(64, self._bytes // 8):
            self._counted, self._since = self._counter.text_tokens(text), 0
        return self._counted + self._since
