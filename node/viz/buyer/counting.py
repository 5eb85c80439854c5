"""How many tokens a node may bill: counted again where the tokenizer is at hand, else bounded.

Owns the count of a request's prompt and of text that arrived, and where a tokenizer is found. Knows
no prices.

With the tokenizer that the quote names both counts are exact: the prompt is rendered by the model's
own template. Without it they are bounded. Every token of the byte-level vocabularies that nodes
serve spells at least one byte, so a text has at most as many tokens as bytes; and what a template
adds is bounded by what the templates in use add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from viz.basemodel.packaged import find_tokenizer
from viz.buyer.request import AskedRequest
from viz.domain.units import Hash32, hex_of
from viz.errors import VizError

# A default system message with its marks: Llama's and SmolLM's take 25 to 40 tokens.
TEMPLATE_TOKENS: Final = 64
# Role and marks of a message, even if a vocabulary spells them letter by letter.
TEMPLATE_TOKENS_PER_MESSAGE: Final = 16

TokenCount = Callable[[str], int]
_log = structlog.get_logger()


class Tokenizer(Protocol):
    """What counting needs of a base model's tokenizer."""

    def count(self, text: str) -> int: ...

    def render(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]: ...


class Counter:
    """Counts as a node bills; ``exact`` where it can count at all."""

    def __init__(
        self, tokenizer: Tokenizer | None = None, count_tokens: TokenCount | None = None
    ) -> None:
        """``count_tokens`` counts plain text where the template is not known."""
        self._tokenizer = tokenizer
        self._count = tokenizer.count if tokenizer else count_tokens
        self.exact = self._count is not None

    def text_tokens(self, text: str) -> int:
        """Return how many tokens a text has: exactly, or without a tokenizer at most."""
        return self._count(text) if self._count else len(text.encode())

    def prompt_tokens(self, asked: AskedRequest) -> int:
        """Return how many tokens the prompt has: exactly, or without the template at most."""
        texts, messages = asked.texts(), asked.messages()
        if self._tokenizer is not None and messages is not None:
            try:
                return len(self._tokenizer.render(messages))
            except VizError:
                pass  # the node refuses it as well; should it not, it bills no more than the bound
        tokens = sum(map(self.text_tokens, texts))
        if asked.is_chat:
            tokens += TEMPLATE_TOKENS + len(texts) * TEMPLATE_TOKENS_PER_MESSAGE
        return tokens


class Counters:
    """The counters of one buyer, by the digest of the tokenizer that a node names."""

    def __init__(self, folder: Path, count_tokens: TokenCount | None = None) -> None:
        """``folder`` holds model directories of further tokenizers."""
        self._folder = folder
        self._count_tokens = count_tokens
        self._known: dict[Hash32, Counter] = {}

    def of(self, digest: Hash32) -> Counter:
        """Return the counter for a tokenizer; say once where there is none. Blocks."""
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
    """The tokens of one growing text, counted again only where it grew by much.

    Between two counts every byte is taken for a token. More text may split the end of what was
    counted otherwise, so the sum can be a token or two low: a receipt's text is counted whole.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counted = 0
        self._bytes = 0
        self._since = 0

    def grew(self, text: str, more_bytes: int) -> int:
        """Return the tokens of ``text``, which grew by so many bytes: at most, and nearly so."""
        self._bytes += more_bytes
        self._since += more_bytes
        if self._counter.exact and self._since > max(64, self._bytes // 8):
            self._counted, self._since = self._counter.text_tokens(text), 0
        return self._counted + self._since
