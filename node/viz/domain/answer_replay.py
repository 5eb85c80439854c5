"""Judge a greedy answer by computing again which tokens the model finds likely.

Pure: ``NextTokens`` computes the model. The text is forced on it, token after token. If the
likeliest token fits the text, it is taken. If not, the likeliest one that fits is taken, and a
*gap* says how much less likely it is, in nats. The same function gives no gaps, except where two
tokens are almost equally likely: there another order of sums may choose the other one. So an honest
gap is at most twice the error of a log-probability.

Invariant: the tokens that are forced spell the text to its last byte.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

MARGIN_NATS: Final = 0.005
"""How large a gap two paths of this engine may leave between them (docs/engine-log.md).

Measured over torch and the compiled pass, both in float32, on the packaged base model.
"""
_MOST_SILENT: Final = 64
_REPLACED: Final = "\ufffd"


class NextTokens(Protocol):
    """What a model finds likely after the prompt and the tokens that were pushed."""

    def best(self) -> int:
        """Return the likeliest token."""
        ...

    def logprob(self, token: int) -> float:
        """Return a token's natural-log probability."""
        ...

    def ranked(self) -> Iterator[int]:
        """Yield all tokens, the likeliest first."""
        ...

    def push(self, token: int) -> None:
        """Go on behind this token."""
        ...


@dataclass(frozen=True, slots=True)
class Gap:
    """Where the text is not the model's choice; ``place`` counts its tokens from 0."""

    place: int
    nats: float
    chosen: str
    likelier: str


@dataclass(slots=True)
class AnswerReplay:
    """What a replay found. ``impossible``: from a place on, no token at all fits the text."""

    tokens: int = 0
    gaps: list[Gap] = field(default_factory=list)
    impossible: bool = False
    end_checked: bool = False

    @property
    def largest_nats(self) -> float:
        return max((gap.nats for gap in self.gaps), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        worst = sorted(self.gaps, key=lambda gap: -gap.nats)[:8]
        return {
            "tokens": self.tokens,
            "differing": len(self.gaps),
            "largestGapNats": round(self.largest_nats, 6),
            "endChecked": self.end_checked,
            "gaps": [
                {
                    "place": gap.place,
                    "nats": round(gap.nats, 6),
                    "answer": gap.chosen,
                    "likelier": gap.likelier,
                }
                for gap in worst
            ],
        }


def replay(
    text: str,
    model: NextTokens,
    table: Mapping[int, bytes],
    ends: Sequence[int],
    *,
    ended: bool,
    most_tokens: int,
) -> AnswerReplay:
    """Force ``text`` on the model and return the gaps.

    ``table`` has the bytes of each ordinary token, ``ends`` are the tokens that end an answer.
    ``ended``: the model ended this answer by itself, which is checked too. At most ``most_tokens``
    tokens are forced; what is left of the text then cannot be checked and counts as impossible.
    """
    found, rest = AnswerReplay(), _Rest(text, table)
    silent = 0
    while not rest.is_done:
        if found.tokens >= most_tokens:
            found.impossible = True
            return found
        best = token = model.best()
        if best not in table and best not in ends and silent < _MOST_SILENT:
            silent += 1  # a control token that is no end: it spells nothing and is not sent
        elif not rest.fits(best):
            fitting = next((each for each in model.ranked() if rest.fits(each)), None)
            if fitting is None:
                found.impossible = True
                return found
            token = fitting
            nats = model.logprob(best) - model.logprob(token)
            gap = Gap(found.tokens, nats, _shown(table, token), _shown(table, best))
            found.gaps.append(gap)
        rest.take(token)
        model.push(token)
        found.tokens += 1
    if ended and ends:
        found.end_checked = True
        best, end = model.best(), max(ends, key=model.logprob)
        if best not in ends:
            nats = model.logprob(best) - model.logprob(end)
            found.gaps.append(Gap(found.tokens, nats, "(end)", _shown(table, best)))
    return found


class _Rest:
    """What of the text is not spelled yet, and the bytes of a character that is begun."""

    def __init__(self, text: str, table: Mapping[int, bytes]) -> None:
        self._text, self._table = text, table
        self._at, self._begun = 0, b""

    @property
    def is_done(self) -> bool:
        """Whether all is spelled. A character that was cut off at the end is shown as U+FFFD."""
        left = self._text[self._at :]
        return left == _REPLACED if self._begun else not left

    def fits(self, token: int) -> bool:
        """Return whether a token's bytes can stand next."""
        return (raw := self._table.get(token)) is not None and self._decoded(raw) is not None

    def take(self, token: int) -> None:
        raw = self._table.get(token, b"")
        if raw and (decoded := self._decoded(raw)) is not None:
            read, self._begun = decoded
            self._at += len(read)

    def _decoded(self, raw: bytes) -> tuple[str, bytes] | None:
        """Return the text that these bytes complete and the bytes left over; None if not ours."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        read = decoder.decode(self._begun + raw)
        begun = decoder.getstate()[0]
        if not self._text.startswith(read, self._at) or not raw:
            return None
        following = self._text[self._at + len(read) :][:1]
        if begun and following != _REPLACED and not following.encode().startswith(begun):
            return None
        return read, begun


def _shown(table: Mapping[int, bytes], token: int) -> str:
    raw = table.get(token)
    return f"(control token {token})" if raw is None else raw.decode("utf-8", errors="replace")
