"""A listing is kept only if its owner signed it and the chain agrees; the newest one counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, NOW_S, FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.eip712 import (
    Domain,
    content_registry_domain,
    is_signed_by,
    keccak,
    public_address,
    sign,
)
from viz.domain.license import ALL_USES, Terms
from viz.domain.ports.chain import ContentState, TermsState
from viz.domain.strict_json import load_json
from viz.domain.units import ZERO_HASH, ContentId, Hash32
from viz.errors import (
    ChainError,
    ChainUnreachable,
    InvalidListing,
    InvalidRequest,
    InvalidSignature,
    LicenseError,
    LicenseMismatch,
    ListingStale,
    ListingUnknown,
    StoreFull,
    VizError,
)
from viz.protocol.listing import (
    MAX_LISTING_BYTES,
    SignedListing,
    listings_from_json,
    spelled_page,
)
from viz.protocol.listing import listings_to_json as to_json
from viz.protocol.listing import spelled as spelled_one
from viz.protocol.wire import canonical_json
from viz.services.market import listings as module
from viz.services.market.listings import Listings

OWNER_KEY = b"\x66" * 32
OWNER = public_address(OWNER_KEY)
WORK = ContentId(3)
LICENSE: dict[str, Any] = {"text": "Name me, and pay."}
DOMAIN = content_registry_domain(DEPLOYMENT.chain_id, DEPLOYMENT.content_registry)


class LicensedChain(FakeChain):
    """The chain in memory, which has one license for every work."""

    license_hash = keccak(canonical_json(LICENSE))

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        self._ask()
        return TermsState(Terms(0, 0, 0, 0, 0, int(ALL_USES), False), self.license_hash)

    def put_work(self, content_id: ContentId = WORK, *, withdrawn_at: int = 0) -> None:
        """Register a work of the owner by fiat."""
        state = ContentState(content_id, OWNER, OWNER, ZERO_HASH, ZERO_HASH, withdrawn_at)
        self.works[content_id] = state


def document(**changes: Any) -> dict[str, Any]:
    """Return a listing's JSON; ``changes`` replace members."""
    return {
        "chainId": DEPLOYMENT.chain_id,
        "contentRegistry": DEPLOYMENT.content_registry,
        "contentId": int(WORK),
        "title": "The keeper of Varn Point",
        "credit": "Alma Reyes",
        "language": "en",
        "kind": "text",
        "sizeBytes": 4_096,
        "license": LICENSE,
        "sealed": {
            "cid": "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
            "sizeBytes": 5_000,
        },
        "custodians": [{"node": address_of(9), "url": "https://node.example"}],
        "issuedAt": NOW_S,
        "sample": "Who keeps the light?",
        **changes,
    }


def signed(key: bytes = OWNER_KEY, domain: Domain = DOMAIN, **changes: Any) -> SignedListing:
    """Return a signed listing."""
    found = SignedListing.of(document(**changes), b"")
    return SignedListing.of(document(**changes), sign(key, domain.digest(found.struct)))


@pytest.fixture
def chain() -> LicensedChain:
    made = LicensedChain(b"\x11" * 32)
    made.put_work()
    return made


@pytest.fixture
def listings(chain: LicensedChain) -> Listings:
    return Listings(MemoryStore(), chain, chain.clock)


async def test_a_true_listing_is_kept_and_passed_on_unchanged(
    listings: Listings, chain: LicensedChain
) -> None:
    """Another node gets every byte that the owner signed, members of a later version included."""
    for number in (3, 4, 5):
        chain.put_work(ContentId(number))
        await listings.accept(signed(contentId=number, later={"of": "another version"}))
    page, after = await listings.page(ContentId(0), 2)
    assert [each.listing.content_id for each in page] == [3, 4] and after == 4
    kept, none = await listings.kept_page(after)
    spelled = spelled_page([spelled_one(each.document, each.signature) for each in kept], none)
    assert load_json(spelled) == to_json(*await listings.page(after))
    again, last = listings_from_json(load_json(spelled))
    assert [each.listing.content_id for each in again] == [5] and last is None
    assert again[0].document == canonical_json(
        document(contentId=5, later={"of": "another version"})
    )
    assert is_signed_by(DOMAIN.digest(again[0].struct), again[0].signature, OWNER)


async def test_the_newest_listing_counts(listings: Listings) -> None:
    """An older listing that somebody kept cannot undo what the owner said later."""
    await listings.accept(signed(title="first"))
    await listings.accept(signed(title="first"))
    await listings.accept(signed(title="second", issuedAt=NOW_S + 1))
    for late in (signed(title="first"), signed(title="other", issuedAt=NOW_S + 1)):
        with pytest.raises(ListingStale, match="issued at"):
            await listings.accept(late)
    assert (await listings.get(WORK)).listing.title == "second"


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: signed(key=b"\x67" * 32), InvalidSignature),
        (lambda: SignedListing.of(document(), b"\1" * 65), InvalidSignature),
        (lambda: SignedListing.of(document(), b"\1" * 200), InvalidSignature),
        (
            lambda: signed(domain=content_registry_domain(1, DEPLOYMENT.content_registry)),
            InvalidSignature,
        ),
        (lambda: signed(chainId=1), InvalidListing),
        (lambda: signed(contentRegistry=address_of(5)), InvalidListing),
        (lambda: signed(contentId=77), LicenseError),
        (lambda: signed(license={"text": "Take it."}), LicenseMismatch),
        (lambda: signed(issuedAt=NOW_S + 3_600), InvalidListing),
        (lambda: signed(sizeBytes=0), InvalidListing),
        (lambda: signed(sizeBytes=2 * 1024**3), InvalidListing),
        (lambda: signed(sealed={**document()["sealed"], "sizeBytes": 2 * 1024**3}), InvalidListing),
        (lambda: signed(sealed={"cid": "Qm" + "a" * 44, "sizeBytes": 5}), InvalidListing),
        (lambda: signed(custodians=[]), InvalidListing),
        (lambda: signed(custodians=document()["custodians"] * 9), InvalidListing),
        (lambda: signed(custodians=[{"node": address_of(9), "url": "file:///x"}]), InvalidListing),
        (
            lambda: signed(custodians=[{"node": address_of(9), "url": "http://a:b@c"}]),
            InvalidListing,
        ),
        (lambda: signed(title=" "), InvalidListing),
        (lambda: signed(title="\x1b[2J"), InvalidListing),
        (lambda: signed(language="en_US"), InvalidListing),
        (lambda: signed(kind="film"), InvalidListing),
        (lambda: signed(sample="x" * 5_000), InvalidListing),
        (lambda: signed(license={"text": "x" * MAX_LISTING_BYTES}), InvalidListing),
        (lambda: signed(more=2**60), InvalidListing),
        (lambda: SignedListing.from_json({"listing": 3, "signature": "0x"}), InvalidListing),
    ],
)
async def test_what_is_untrue_or_too_large_is_refused(
    listings: Listings, made: Callable[[], SignedListing], error: type[VizError]
) -> None:
    """Nothing of a listing that its owner did not sign, or that the chain contradicts, is kept."""
    with pytest.raises(error):
        await listings.accept(made())
    with pytest.raises(ListingUnknown):
        await listings.get(WORK)


async def test_what_the_chain_contradicts_later_is_dropped(
    listings: Listings, chain: LicensedChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A withdrawn work is listed no more; a chain that does not answer drops nothing."""
    monkeypatch.setattr(module, "LOOK_PAUSE_S", 0)
    chain.put_work(ContentId(4))
    await listings.accept(signed())
    await listings.accept(signed(contentId=4))
    chain.down = True
    with pytest.raises(ChainUnreachable):
        await listings.drop_untrue()
    chain.down = False
    chain.put_work(ContentId(4), withdrawn_at=NOW_S)
    chain.put_work(ContentId(5))
    await listings.accept(signed(contentId=5))
    del chain.works[ContentId(5)]
    await listings.drop_untrue()
    page, _ = await listings.page(ContentId(0))
    assert [each.listing.content_id for each in page] == [3]
    with pytest.raises(ListingUnknown):
        await listings.kept(ContentId(5))
    with pytest.raises(LicenseError, match="withdrawn"):
        await listings.accept(signed(contentId=4, issuedAt=NOW_S + 9))


async def test_a_withdrawn_work_s_listing_is_hidden_at_once(
    listings: Listings, chain: LicensedChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sample is a text of the work. Only the withdrawal's finality deletes it
    (``WithdrawalWatch``): one that a reorganisation undoes is shown again."""
    monkeypatch.setattr(module, "LOOK_PAUSE_S", 0)
    for number in (3, 4, 5):
        chain.put_work(ContentId(number))
        await listings.accept(signed(contentId=number))
    listings.hide([ContentId(4), ContentId(5)])
    page, after = await listings.page(ContentId(0), 2)
    assert [each.listing.content_id for each in page] == [3] and after == 4, "the rest follows"
    assert await listings.kept_page(ContentId(4), 2) == ([], None)
    with pytest.raises(ListingUnknown, match="was withdrawn"):
        await listings.shown(ContentId(4))
    assert (await listings.shown(WORK)).content_id == WORK
    chain.put_work(ContentId(5), withdrawn_at=NOW_S)
    await listings.drop_untrue()
    assert listings.withdrawn == {5} and await listings.kept(ContentId(5))
    assert (await listings.shown(ContentId(4))).content_id == 4
    listings.hide([ContentId(4)])  # the logs of the replaced block are read again
    assert (await listings.shown(ContentId(4))).content_id == 4
    chain.put_work(ContentId(4), withdrawn_at=NOW_S)
    await listings.drop_untrue()
    assert listings.withdrawn == {4, 5}


@pytest.mark.parametrize("fault", [ChainError("odd"), InvalidRequest("odd")])
async def test_an_odd_answer_drops_no_listing(
    listings: Listings,
    chain: LicensedChain,
    monkeypatch: pytest.MonkeyPatch,
    fault: VizError,
) -> None:
    """Only what the chain says deletes: an answer that cannot be used, or this node's clock, says
    nothing of the listing. The others are still checked."""
    monkeypatch.setattr(module, "LOOK_PAUSE_S", 0)
    chain.put_work(ContentId(4))
    await listings.accept(signed())
    await listings.accept(signed(contentId=4))
    known = FakeChain.content

    async def content(self: FakeChain, content_id: ContentId) -> ContentState | None:
        if content_id == WORK:
            raise fault
        return await known(self, content_id)

    chain.put_work(ContentId(4), withdrawn_at=NOW_S)
    with monkeypatch.context() as odd:
        odd.setattr(FakeChain, "content", content)
        await listings.drop_untrue()
    chain.clock.now -= 86_400
    await listings.drop_untrue()
    page, _ = await listings.page(ContentId(0))
    assert [each.listing.content_id for each in page] == [WORK]


async def test_the_number_of_listings_is_bounded(
    listings: Listings, chain: LicensedChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full node still takes a newer listing of a work that it lists."""
    monkeypatch.setattr(module, "MAX_LISTINGS", 1)
    await listings.accept(signed())
    chain.put_work(ContentId(4))
    with pytest.raises(StoreFull, match="1 listings"):
        await listings.accept(signed(contentId=4))
    await listings.accept(signed(issuedAt=NOW_S + 1))
