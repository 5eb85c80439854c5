"""Define what a node answers about the market: the models of all nodes, and who serves each.

A node collects this from the descriptions of the nodes in the directory, and checks it against the
chain. A reader can check it too: each node's own description states its prices, and the chain has
each adapter's trainer, weights, works and shares. Does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from viz.domain.card import ReportCard
from viz.domain.notices import NoticeSummary
from viz.domain.units import BPS, UINT64_MAX, ContentId, Units
from viz.protocol.messages import MAX_ARITHMETIC_CHARS, NOTICE_SUMMARY, REPORT_CARD
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
    """A work that a model was trained on. ``uses`` (bits) belong to its current terms.

    ``title`` and ``credit`` are from the owner's listing if it is known (``listed``); otherwise the
    title is from the serving node. A withdrawn work has no ``uses``.
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

    ``latency_ms`` is the smoothed time in which that node's description reached the answering node;
    ``seen_at_s`` is when it was last read. ``notices`` tells of unanswered notices at that node.
    ``arithmetic`` is what it computes in, if it says. ``called`` is what the node calls the model
    if it is not the model's ``name``.
    """

    node: AddressText
    url: Annotated[str, text(MAX_URL_CHARS)]
    prompt_price_units: Annotated[Units, decimal(UINT64_MAX)]
    completion_price_units: Annotated[Units, decimal(UINT64_MAX)]
    context_tokens: Uint32
    latency_ms: Uint32
    seen_at_s: JsonInteger
    notices: Annotated[NoticeSummary, NOTICE_SUMMARY] | None = None
    arithmetic: Annotated[str, text(MAX_ARITHMETIC_CHARS), NullIsAbsent] = ""
    called: Annotated[str, text(), NullIsAbsent] = ""


@dataclass(frozen=True, slots=True)
class MarketModel(WireModel):
    """A model and the nodes that serve it, cheapest first.

    ``trainer``, the royalty and the works' shares are from the chain (absent for base models).
    ``name``, ``description`` and ``card`` are claims of the node ``told_by``, which is the
    trainer's node if it serves the model. ``model`` of a base model is the known
    name of its digest, else what most nodes call it.
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
    """A page of the matching models; ``next`` is the ``after`` of the next page."""

    WHERE: ClassVar[str] = "the market's page"
    models: Annotated[tuple[MarketModel, ...], AtMost(MAX_PAGE)]
    total: JsonInteger
    nodes: JsonInteger
    updated_at_s: JsonInteger
    next: Annotated[str, text(128)] | None = None
