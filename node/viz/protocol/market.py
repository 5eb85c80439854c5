"""Define what a node answers about the market: models of all nodes, and who serves each.

A node collects this from the descriptions of the nodes in the directory, and checks it against the
chain. Whoever reads it can check the same: each node's own description states its prices, and the
chain has each adapter's trainer, weights, works and shares. Does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from viz.domain.card import ReportCard
from viz.domain.units import BPS, UINT64_MAX, ContentId, Units
from viz.protocol.messages import REPORT_CARD
from viz.protocol.wire_model import (
    BOOLEAN,
    AdapterNumber,
    AddressText,
    AtMost,
    Hash32Hex,
    JsonInteger,
    NullIsAbsent,
    Uint32,
    WireModel,
    decimal,
    text,
    whole,
)

MARKET_PATH: Final = "/viz/v1/market"
MAX_PAGE: Final = 100
MAX_OFFERS: Final = 256
MAX_WORKS: Final = 128
MAX_URL_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class MarketWork(WireModel):
    """A work that a model was trained on. ``uses`` (bits) are of its present terms.

    ``title`` and ``credit`` are the owner's words where its listing is known (``listed``), else
    the title is the serving node's. A withdrawn work has no ``uses``.
    """

    content_id: Annotated[ContentId, whole(2**53 - 1)]
    share_bps: Annotated[int, whole(BPS)]
    title: Annotated[str, text(), NullIsAbsent] = ""
    credit: Annotated[str, text(), NullIsAbsent] = ""
    listed: Annotated[bool, BOOLEAN, NullIsAbsent] = False
    uses: Annotated[int, whole(255), NullIsAbsent] = 0
    revocation_class: Annotated[int, whole(255), NullIsAbsent] = 0
    withdrawn_at_s: Annotated[int, whole(2**53 - 1), NullIsAbsent] = 0


@dataclass(frozen=True, slots=True)
class MarketOffer(WireModel):
    """A node that serves a model, with its list price in units per million tokens.

    ``latency_ms`` is how long the node's description took for the node that answers this, smoothed;
    ``seen_at`` is when it was last read.
    """

    node: AddressText
    url: Annotated[str, text(MAX_URL_CHARS)]
    prompt_price_units: Annotated[Units, decimal(UINT64_MAX)]
    completion_price_units: Annotated[Units, decimal(UINT64_MAX)]
    context_tokens: Uint32
    latency_ms: Uint32
    seen_at_s: JsonInteger


@dataclass(frozen=True, slots=True)
class MarketModel(WireModel):
    """A model and the nodes that serve it, cheapest first.

    ``trainer``, the royalty and the works' shares are on the chain (absent for base models).
    ``name``, ``description`` and ``card`` are the words of the node ``told_by``: the trainer's, if
    it serves the model.
    """

    WHERE: ClassVar[str] = "a model of the market"
    adapter_id: AdapterNumber
    model: Annotated[str, text(256)]
    weights_digest: Hash32Hex
    base_digest: Hash32Hex
    told_by: AddressText
    name: Annotated[str, text(), NullIsAbsent] = ""
    description: Annotated[str, text(), NullIsAbsent] = ""
    card: Annotated[ReportCard, REPORT_CARD] | None = None
    trainer: AddressText | None = None
    royalty_bps: Annotated[int, whole(BPS), NullIsAbsent] = 0
    trainer_bps: Annotated[int, whole(BPS), NullIsAbsent] = 0
    retires_at_s: Annotated[int, whole(2**53 - 1), NullIsAbsent] = 0
    works: Annotated[tuple[MarketWork, ...], AtMost(MAX_WORKS), NullIsAbsent] = ()
    offers: Annotated[tuple[MarketOffer, ...], AtMost(MAX_OFFERS), NullIsAbsent] = ()


@dataclass(frozen=True, slots=True)
class MarketPage(WireModel):
    """A page of the models that were asked for; ``next`` is the ``after`` of the next page."""

    WHERE: ClassVar[str] = "the market's page"
    models: Annotated[tuple[MarketModel, ...], AtMost(MAX_PAGE)]
    total: JsonInteger
    nodes: JsonInteger
    updated_at_s: JsonInteger
    next: Annotated[str, text(128)] | None = None
