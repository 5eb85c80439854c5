"""Every offer of a node is compared with the chain, and each contradiction is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, FakeChain

from viz.audit.offer_audit import OfferAudit, audit_offers
from viz.domain.ports.chain import ContentState
from viz.domain.ports.ledger import OfferedWork
from viz.domain.units import ZERO_HASH, AdapterId, ContentId, Hash32
from viz.errors import LicenseMismatch, LicenseUnknown
from viz.protocol.messages import AdapterOffer, NodeInfo

BASE, WEIGHTS, LICENSE = Hash32(b"\xba" * 32), Hash32(b"\x11" * 32), ZERO_HASH
ADAPTER, WORKS = AdapterId(7), (ContentId(3), ContentId(4))


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
        self.licenses: dict[ContentId, Hash32 | Exception] = dict.fromkeys(WORKS, LICENSE)

    def withdraw(self, work: ContentId, at_s: int) -> None:
        owner = self.chain.address
        self.chain.works[work] = ContentState(work, owner, owner, ZERO_HASH, ZERO_HASH, at_s)

    async def license_at(self, work: ContentId) -> Hash32:
        found = self.licenses[work]
        if isinstance(found, Exception):
            raise found
        return found

    async def audit(self, **changes: Any) -> OfferAudit:
        base = AdapterOffer(AdapterId(0), "base", BASE, 1, 1)
        info = NodeInfo(
            self.chain.address, DEPLOYMENT.chain_id, DEPLOYMENT.settlement,
            DEPLOYMENT.content_registry, DEPLOYMENT.adapter_registry, DEPLOYMENT.token, "t", "1",
            6, 1, "base", BASE, ZERO_HASH, 100, 1, 1, 1, (base, self.offer),
        )  # fmt: skip
        return await audit_offers(replace(info, **changes), self.chain, self.license_at)


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
