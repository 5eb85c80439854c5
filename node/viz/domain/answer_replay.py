"""Judge a greedy answer by computing again which tokens the model finds likely.

Pure: ``NextTokens`` computes the model. The text is forced on it, token after token. If the
likeliest token fits the text, it is taken. If not, the likeliest one that fits is taken, and a
*gap* says how much less likely it is, in nats. The same function gives no gaps, except where two
tokens are almost equally likely: there another order of sums may choose the other one. So an honest
gap is at most twice the error of a log-probability.

Why an answer ended is computed too, from the request and the text alone: by the model's own end, at
the most tokens that were asked for, or before a stop string. What a record says about it is signed
by nobody.

Invariant: the tokens that are forced spell the text to its last byte, or to the token that a stop
string cut.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    """What a replay found. ``impossible``: from a place on, no token at all fits the text.

    ``end`` is why the text is whole: the model ended it ("model"), it has as many tokens as were
    asked for ("length"), or a stop string follows ("stop"); empty if the model would go on.
    ``end_gap`` is how much likelier it is to go on than to end behind the text's last token.
    """

    tokens: int = 0
    gaps: list[Gap] = field(default_factory=list)
    impossible: bool = False
    end: str = ""
    end_gap: Gap | None = None

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
            "end": self.end,
            "endGapNats": round(self.end_gap.nats, 6) if self.end_gap else None,
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
    most_tokens: int,
    limit: int | None = None,
    stops: Sequence[str] = (),
) -> AnswerReplay:
    """Force ``text`` on the model and return the gaps, and why the text ends where it does.

    ``table`` has the bytes of each ordinary token, ``ends`` are the tokens that end an answer.
    ``limit`` and ``stops`` are the request's most tokens and stop strings. At most ``most_tokens``
    tokens are forced; what is left of the text then cannot be checked and counts as impossible.
    """
    found, rest = AnswerReplay(), _Rest(text, table)
    cuts, silent = tuple(stop.encode("utf-8", "surrogatepass") for stop in stops), 0
    while not rest.is_done:
        if found.tokens >= most_tokens:
            found.impossible = True
            return found
        best = token = model.best()
        if best not in table and best not in ends and silent < _MOST_SILENT:
            silent += 1  # a control token that is no end: it spells nothing and is not sent
        elif not rest.fits(best):
            if _may_stop(rest.beyond(best), cuts):
                break  # a stop string, or its beginning, cut the answer inside this token
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
    if rest.is_done and limit is not None and found.tokens >= limit:
        found.end = "length"
    else:
        most = most_tokens if limit is None else min(most_tokens, limit)
        _end(found, _Beyond(model, table, ends, rest.left), cuts, most=most)
    return found


@dataclass(slots=True)
class _Beyond:
    """A model behind a text, of which the bytes ``left`` are not spelled yet."""

    model: NextTokens
    table: Mapping[int, bytes]
    ends: Sequence[int]
    left: bytes


def _end(found: AnswerReplay, behind: _Beyond, stops: Sequence[bytes], *, most: int) -> None:
    """Let the model go on behind the text until it is clear if it ended there, or at a stop."""
    model, raw, went = behind.model, b"", 0
    while went < _MOST_SILENT and found.tokens + went < most:
        best = model.best()
        if best in behind.ends:
            found.end = "" if raw else "model"
            return
        if not raw and not behind.left and found.end_gap is None and behind.ends:
            nats = model.logprob(best) - max(map(model.logprob, behind.ends))
            found.end_gap = Gap(found.tokens, nats, "(end)", _shown(behind.table, best))
        raw += behind.table.get(best, b"")
        tail = raw[len(behind.left) :]
        if any(tail.startswith(stop) for stop in stops):
            found.end = "stop"
            return
        if tail and not _may_stop(tail, stops):
            return
        model.push(best)
        went += 1


def _may_stop(tail: bytes, stops: Sequence[bytes]) -> bool:
    """Return whether what follows a text is a stop string's beginning, or begins with one."""
    return bool(tail) and any(stop.startswith(tail) or tail.startswith(stop) for stop in stops)


def fewest_tokens(text: str, spellings: Collection[bytes]) -> int:
    """Return a lower bound of the tokens that spell the text, whichever tokens were chosen.

    The last token may reach beyond the text, because a stop string may have cut it.
    """
    raw = text.encode("utf-8", "surrogatepass")
    known = frozenset(spellings)
    longest = max(map(len, known), default=1)
    need = [0]
    for end in range(1, len(raw) + 1):
        starts = range(max(0, end - longest), end)
        steps = (need[start] for start in starts if raw[start:end] in known)
        # Bytes that no token has at all are the replay's to find; here they cost nothing.
        need.append(min(steps, default=need[-1] - 1) + 1)
    ordered = sorted(known)

    def begins_a_token(rest: bytes) -> bool:
        place = bisect_left(ordered, rest)
        return place < len(ordered) and ordered[place].startswith(rest)

    ends = range(max(0, len(raw) - longest + 1), len(raw))
    return min((need[-1], *(need[each] + 1 for each in ends if begins_a_token(raw[each:]))))


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

    @property
    def left(self) -> bytes:
        """The bytes that are not spelled yet, with those of a character that is begun."""
        return b"" if self.is_done else self._text[self._at :].encode("utf-8", "surrogatepass")

    def beyond(self, token: int) -> bytes:
        """Return what a token spells behind the end of the text, if it spells all that is left."""
        raw, left = self._begun + self._table.get(token, b""), self.left
        return raw[len(left) :] if raw.startswith(left) else b""

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
