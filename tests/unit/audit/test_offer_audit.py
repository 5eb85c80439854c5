"""Every offer of a node is compared with the chain, and each contradiction is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, FakeChain

from viz.audit.offer_audit import OWN_WORDS, OfferAudit, ShownLicense, audit_offers
from viz.chain.keys import development_account
from viz.domain.card import ReportCard
from viz.domain.manifest import Manifest, SourceWork, manifest_hash, seal_manifest
from viz.domain.ports.chain import ContentState
from viz.domain.ports.ledger import OfferedWork
from viz.domain.units import ZERO_HASH, AdapterId, Address, ContentId, Hash32
from viz.errors import LicenseMismatch, LicenseUnknown, ProvenanceUnknown
from viz.protocol.messages import AdapterOffer, NodeInfo

BASE, WEIGHTS, LICENSE = Hash32(b"\xba" * 32), Hash32(b"\x11" * 32), ZERO_HASH
ADAPTER, WORKS = AdapterId(7), (ContentId(3), ContentId(4))
TRAINER = development_account(3)
MEASURED = {
    "recall": {"asked": 20, "adapter": 4, "base": 1},
    "general": {"base": 9, "kept": 8},
    "memorisation": {"adapter": {"longest_tokens": 7}},
    "defaultTemperature": 0.0,
}
CARD = ReportCard(20, 4, 1, 9, 8, 0.0, 7)


class Sold:
    """A node that sells its base and one adapter of two works."""

    def __init__(self) -> None:
        self.chain = FakeChain(b"\x11" * 32)
        for work in WORKS:
            self.withdraw(work, 0)
        state = self.chain.put_adapter(ADAPTER, WEIGHTS)
        shares = tuple((work, 5_000) for work in WORKS)
        self.chain.adapter_states[ADAPTER] = replace(state, base_model=BASE, shares=shares)
        self.offer = AdapterOffer(
            ADAPTER, "viz-adapter-7", WEIGHTS, 1, 1, works=tuple(map(OfferedWork, WORKS))
        )
        self.base = AdapterOffer(AdapterId(0), "base", BASE, 1, 1)
        self.manifest: bytes | None = None
        self.models: list[AdapterOffer] | None = None
        self.licenses: dict[ContentId, Hash32 | Exception] = dict.fromkeys(WORKS, LICENSE)

    def withdraw(self, work: ContentId, at_s: int) -> None:
        owner = self.chain.address
        self.chain.works[work] = ContentState(work, owner, owner, ZERO_HASH, ZERO_HASH, at_s)

    async def license_at(self, work: ContentId) -> ShownLicense:
        found = self.licenses[work]
        if isinstance(found, Exception):
            raise found
        return ShownLicense(found, f"title {work}")

    async def manifest_at(self, adapter_id: AdapterId) -> bytes:
        if self.manifest is None:
            raise ProvenanceUnknown("none")
        return self.manifest

    async def listed(self) -> list[AdapterOffer]:
        return self.models if self.models is not None else [self.base, self.offer]

    def trained(self, measurements: dict[str, Any]) -> None:
        """Register a manifest with these measurements, and show it."""
        manifest = Manifest(
            trainer=Address(TRAINER.address),
            weights_digest=WEIGHTS,
            base_model=BASE,
            base_name="base",
            works=tuple(SourceWork(work, ZERO_HASH, 30, 500) for work in WORKS),
            rows_digest=ZERO_HASH,
            settings={},
            environment={},
            reproducibility="bitwise-same-cpu-class",
            measurements=measurements,
            started_at="2026-01-01T00:00:00Z",
            finished_at="2026-01-01T00:02:00Z",
        )
        self.register(seal_manifest(manifest, bytes(TRAINER.key)))

    def register(self, envelope: bytes) -> None:
        self.manifest = envelope
        state = self.chain.adapter_states[ADAPTER]
        changed = replace(state, manifest_hash=manifest_hash(envelope))
        self.chain.adapter_states[ADAPTER] = changed

    async def audit(self, **changes: Any) -> OfferAudit:
        info = NodeInfo(
            self.chain.address, DEPLOYMENT.chain_id, DEPLOYMENT.settlement,
            DEPLOYMENT.content_registry, DEPLOYMENT.adapter_registry, DEPLOYMENT.token, "t", "1",
            6, 1, "base", BASE, ZERO_HASH, 100, 1, 1, 1, (self.base, self.offer),
        )  # fmt: skip
        return await audit_offers(replace(info, **changes), self.chain, self)


@pytest.fixture
def sold() -> Sold:
    return Sold()


async def test_true_offers_have_no_finding(sold: Sold) -> None:
    """What is worth knowing is a remark: a missing text, a withdrawal that the class permits."""
    found = await sold.audit()
    assert (found.findings, found.remarks) == ([], []) and found.adapters == [0, 7]
    sold.licenses[WORKS[0]] = LicenseUnknown("none")
    sold.withdraw(WORKS[1], 1_700_000_000)
    found = await sold.audit()
    assert found.findings == [] and len(found.remarks) == 2
    assert any("work 4 was withdrawn 2023-11-14" in each for each in found.remarks)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_digest": Hash32(b"\x22" * 32)}, "other weights than the chain says"),
        ({"adapter_id": AdapterId(8)}, "is not registered"),
        ({"works": (OfferedWork(WORKS[0]),)}, "without naming work 4"),
        ({"works": (*map(OfferedWork, WORKS), OfferedWork(ContentId(9)))}, "names work 9"),
    ],
)
async def test_an_untrue_offer_is_found(sold: Sold, changes: dict[str, Any], said: str) -> None:
    """Other weights, an adapter that is nobody's, works that are left out or invented."""
    sold.offer = replace(sold.offer, **changes)
    found = await sold.audit()
    assert any(said in each for each in found.findings), found.findings


async def test_what_may_not_be_served_or_is_of_another_base_is_found(sold: Sold) -> None:
    """A withdrawn work that ended the adapter, and a base that the adapter was not made for."""
    sold.chain.unservable[ADAPTER] = "it is retired"
    assert any("it is retired" in each for each in (await sold.audit()).findings)
    found = await sold.audit(base_digest=Hash32(b"\xbb" * 32))
    assert any("another base model" in each for each in found.findings)
    assert any("another digest than the base" in each for each in found.findings)


async def test_a_license_that_is_not_the_chain_s_is_found(sold: Sold) -> None:
    """Whether the node hides it or says so itself."""
    sold.licenses[WORKS[0]] = Hash32(b"\x33" * 32)
    sold.licenses[WORKS[1]] = LicenseMismatch("the fee differs")
    found = await sold.audit()
    assert found.findings == [
        "work 3: the license document shown is not the one on the chain",
        "work 4: the fee differs",
    ]


async def test_a_report_card_is_the_signed_manifest_s_or_is_told(sold: Sold) -> None:
    """A better card than the trainer signed convicts; without the manifest nobody knows."""
    sold.trained(MEASURED)
    sold.offer = replace(sold.offer, card=CARD)
    found = await sold.audit()
    assert (found.findings, found.unchecked) == ([], [OWN_WORDS])
    sold.offer = replace(sold.offer, card=replace(CARD, right=19))
    (said,) = (await sold.audit()).findings
    assert said == "adapter 7 is sold with a report card that is not the one in its signed manifest"
    honest = sold.manifest
    assert honest is not None
    sold.manifest = honest + b" "
    assert any("not the one that the chain" in each for each in (await sold.audit()).findings)
    sold.register(b"{}")
    assert any("with a false manifest" in each for each in (await sold.audit()).findings)
    sold.trained({})
    assert any("that is not the one" in each for each in (await sold.audit()).findings)
    sold.manifest = None
    found = await sold.audit()
    assert found.findings == []
    assert "the report card of adapter 7, whose manifest the node does not have" in found.unchecked


async def test_what_an_openai_client_reads_is_the_offer(sold: Sold) -> None:
    """The list of models is read by other clients than the offers: one node, one description."""
    sold.offer = replace(sold.offer, card=CARD)
    for untrue in ({"card": None}, {"weights_digest": ZERO_HASH}, {"works": ()}):
        sold.models = [replace(sold.offer, **untrue)]
        assert any("/v1/models describes" in each for each in (await sold.audit()).findings)
    sold.models = [replace(sold.offer, completion_price_units=9)]
    assert (await sold.audit()).findings == [], "a price may change between two questions"
    sold.models = [replace(sold.offer, adapter_id=AdapterId(9), model="viz-adapter-9")]
    found = await sold.audit()
    assert found.findings == [] and "lists viz-adapter-9" in found.remarks[0]


async def test_another_title_than_the_license_s_is_told(sold: Sold) -> None:
    """An operator may name a work; whoever audits sees what its owner calls it."""
    named = (OfferedWork(WORKS[0], "title 3"), OfferedWork(WORKS[1], "A famous book"))
    sold.offer = replace(sold.offer, works=named)
    found = await sold.audit()
    assert found.findings == []
    assert found.remarks == ["work 4 is offered as A famous book, and its license is for title 4"]
