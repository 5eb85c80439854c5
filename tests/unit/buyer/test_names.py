"""A name pays the adapter that it meant when the buyer used it, not what its node makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.buyer.test_ledger import opened

from viz.buyer.ledger.names import Names
from viz.buyer.terms.offers import find_offer
from viz.domain.units import BASE_MODEL, ZERO_HASH, AdapterId, Hash32
from viz.errors import UnknownModel
from viz.protocol.messages import AdapterOffer, adapter_model, adapter_named


def offer(number: int, name: str) -> AdapterOffer:
    key = AdapterId(number)
    return AdapterOffer(key, adapter_model(key), ZERO_HASH, 1, 1, name)


def test_an_id_comes_before_a_name_and_a_name_of_two_is_none() -> None:
    """Protects whoever names an adapter from one that calls itself by another's id or name."""
    tides, bakery = offer(7, "tides"), offer(8, "Bakery")
    thief = offer(9, "viz-adapter-7")
    offers = (thief, tides, bakery)
    assert find_offer(offers, "viz-adapter-7") is tides
    assert find_offer(offers, " VIZ-adapter-7") is tides
    assert find_offer((offer(0, "viz-adapter-7"), bakery), "viz-adapter-7") is None
    disguised = AdapterOffer(BASE_MODEL, "Viz-Adapter-7", ZERO_HASH, 1, 1, "Viz-Adapter-7")
    assert find_offer((disguised,), "viz-adapter-7") is None
    assert find_offer(offers, " bakery ") is bakery
    assert find_offer(offers, "") is find_offer(offers, "sea") is None
    with pytest.raises(UnknownModel, match="viz-adapter-8, viz-adapter-5") as caught:
        find_offer((*offers, offer(5, "BAKERY")), "bakery")
    assert caught.value.extensions == {"param": "model"}


def test_what_reads_as_an_id_is_no_name() -> None:
    """A base model in another spelling of an id would be paid in the place of that adapter."""
    tides = offer(7, "tides")
    posing = {
        "Viz-Adapter-7": "",
        "viz-adapter-8 ": "",
        "viz-adapter-00000000007": "",
        "x": "viz-adapter-9",
    }
    bases = [AdapterOffer(BASE_MODEL, model, ZERO_HASH, 1, 1, posing[model]) for model in posing]
    offers = (*bases, tides, offer(3, "Viz-Adapter-8"))
    for wanted in ("viz-adapter-7", "Viz-Adapter-7", " VIZ-adapter-00000000007 "):
        assert find_offer(offers, wanted) is tides
    for wanted in ("viz-adapter-8", "viz-adapter-8 ", "VIZ-ADAPTER-8", "viz-adapter-9"):
        assert find_offer(offers, wanted) is None
    # Read in a time that grows with its length: by its square, this took minutes.
    assert adapter_named(f"viz-adapter-{'0' * 200_000}x") is None
    for none in ("viz-adapter-0", f"viz-adapter-{'9' * 5_000}", f"viz-adapter-{'0' * 5_000}"):
        assert find_offer((AdapterOffer(BASE_MODEL, none, ZERO_HASH, 1, 1),), none) is None


def test_a_base_model_is_found_by_name_and_digest() -> None:
    """Protects a buyer from another base under the same name, also from one that is called so."""
    digest = Hash32(b"\xab" * 32)
    base = AdapterOffer(BASE_MODEL, "qwen", digest, 1, 1)
    other = AdapterOffer(BASE_MODEL, f"qwen@{'ab' * 6}", ZERO_HASH, 1, 1)
    for digits in (12, 13, 64):
        assert find_offer((other, base), f"Qwen@{digest.hex()[:digits]}") is base
    assert find_offer((other,), f"qwen@{'ab' * 6}") is None
    assert find_offer((base,), f"qwen@{'ab' * 5}") is None, "too short to tell digests apart"
    assert find_offer((base,), f"other@{'ab' * 6}") is None
    assert find_offer((other,), f"qwen@{'ab' * 6}@{'00' * 6}") is other


def test_a_name_that_moved_is_not_followed(tmp_path: Path) -> None:
    """Protects a buyer whose node calls another adapter by the name that it paid by before."""
    ledger = opened(tmp_path)
    Names(ledger).use("tides", offer(7, "tides"))
    with pytest.raises(UnknownModel, match=r"'Tides' meant viz-adapter-7 .* viz-adapter-9"):
        Names(ledger).use("Tides", offer(9, "tides"))
    Names(ledger).use("viz-adapter-9", offer(9, "tides"))
    Names(ledger).use("tides", offer(9, "tides"))
    Names(ledger).use("fake", offer(0, ""))
    ledger.close()
