"""Index the models that all nodes sell, and answer queries page by page.

Owns the order of the models, the filters and the pages. Does no I/O. Invariants: the order is by
adapter and weights, so that pages stay in place while the market changes; a page's bytes depend on
the index and the query alone.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from viz.domain.units import AdapterId, Address, ContentId, Hash32, Units
from viz.errors import InvalidRequest
from viz.protocol.market import MAX_PAGE, MarketModel, MarketOffer, MarketPage
from viz.protocol.wire import Json

MAX_WORDS: Final = 16
MAX_QUERY_CHARS: Final = 256
_KEY_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class MarketQuery:
    """The filters of a query; None and empty select everything.

    All of ``words`` must occur in the description of a model. ``node`` and the prices filter the
    offers of a model too: a model without an offer left is not returned.
    """

    words: tuple[str, ...] = ()
    adapter_id: AdapterId | None = None
    base_digest: Hash32 | None = None
    content_id: ContentId | None = None
    node: Address | None = None
    max_prompt_units: Units | None = None
    max_completion_units: Units | None = None
    after: str = ""
    limit: int = MAX_PAGE

    @property
    def chooses_offers(self) -> bool:
        """Whether the query filters single offers, and not only models."""
        return (self.node, self.max_prompt_units, self.max_completion_units) != (None, None, None)

    def fits(self, offer: MarketOffer) -> bool:
        """Return whether an offer passes the filters."""
        return (
            (self.node is None or offer.node == self.node)
            and _within(offer.prompt_price_units, self.max_prompt_units)
            and _within(offer.completion_price_units, self.max_completion_units)
        )


def words_of(text: str) -> tuple[str, ...]:
    """Split the text of a query into words; raise InvalidRequest if there are too many."""
    words = tuple(text.casefold().split())
    if len(text) > MAX_QUERY_CHARS or len(words) > MAX_WORDS:
        raise InvalidRequest(
            f"ask with at most {MAX_WORDS} words and {MAX_QUERY_CHARS} characters", param="q"
        )
    return words


@dataclass(frozen=True, slots=True)
class _Listed:
    key: tuple[int, str]
    model: MarketModel
    spelled: Json
    told: str


class MarketIndex:
    """A snapshot of the models on sale."""

    def __init__(self, models: Iterable[MarketModel] = (), nodes: int = 0, now_s: int = 0) -> None:
        """Order the models; ``nodes`` is how many nodes serve them."""
        listed = [_Listed(_key(m), m, m.to_json(), _told(m)) for m in models]
        self._listed: Sequence[_Listed] = sorted(listed, key=lambda each: each.key)
        self._nodes, self._now_s = nodes, now_s

    @property
    def models(self) -> tuple[MarketModel, ...]:
        """Every model, in order."""
        return tuple(each.model for each in self._listed)

    def page(self, query: MarketQuery) -> bytes:
        """Return a ``MarketPage`` as JSON; raise InvalidRequest for an ``after`` of no page."""
        found = [each for each in self._listed if _asked_for(each, query)]
        begin = 0
        if query.after:
            begin = bisect_right(found, _key_in(query.after), key=lambda each: each.key)
        shown, more = found[begin : begin + query.limit], len(found) > begin + query.limit
        next_page = _key_text(shown[-1].key) if shown and more else None
        page: Json = MarketPage((), len(found), self._nodes, self._now_s, next_page).to_json()
        page["models"] = [_spelled(each, query) for each in shown]
        return json.dumps(page, separators=(",", ":")).encode()


def _spelled(each: _Listed, query: MarketQuery) -> Json:
    if not query.chooses_offers:
        return each.spelled
    offers = tuple(filter(query.fits, each.model.offers))
    return replace(each.model, offers=offers).to_json()


def _asked_for(each: _Listed, query: MarketQuery) -> bool:
    model = each.model
    return (
        (query.adapter_id is None or model.adapter_id == query.adapter_id)
        and (query.base_digest is None or model.base_digest == query.base_digest)
        and (
            query.content_id is None
            or any(work.content_id == query.content_id for work in model.works)
        )
        and all(word in each.told for word in query.words)
        and (not query.chooses_offers or any(map(query.fits, model.offers)))
    )


def _told(model: MarketModel) -> str:
    parts = [model.model, model.name, model.description]
    for work in model.works:
        parts += [work.title, work.credit]
    return "\n".join(parts).casefold()


def _key(model: MarketModel) -> tuple[int, str]:
    return int(model.adapter_id), model.weights_digest.hex()[:_KEY_DIGITS]


def _key_text(key: tuple[int, str]) -> str:
    return f"{key[0]}-{key[1]}"


def _key_in(text: str) -> tuple[int, str]:
    number, _, digits = text.partition("-")
    if not (number.isascii() and number.isdecimal() and len(number) <= 10) or len(digits) > 64:
        raise InvalidRequest("after must be the `next` of an earlier page", param="after")
    return int(number), digits


def _within(units: Units, most: Units | None) -> bool:
    return most is None or units <= most
