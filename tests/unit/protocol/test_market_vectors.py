"""The committed messages of the market are read, written and judged by the protocol's models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from viz.domain.eip712 import (
    Domain,
    content_registry_domain,
    is_signed_by,
    settlement_domain,
)
from viz.domain.units import parse_address
from viz.errors import InvalidSignature
from viz.protocol.custody import HandOver, SignedEndCustody, SignedKeyRequest
from viz.protocol.destruction import DestructionCertificate
from viz.protocol.listing import SignedListing

VECTOR: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "market.json").read_text(encoding="utf-8")
)
OWNER: Final = parse_address(VECTOR["owner"])
REGISTRY: Final[Domain] = content_registry_domain(
    VECTOR["chainId"], parse_address(VECTOR["contentRegistry"])
)


def test_a_listing_is_passed_on_as_it_came() -> None:
    """A member that this version does not know is under the signature, so it must stay."""
    said = VECTOR["listing"]["signed"]
    read = SignedListing.from_json(said)
    assert read.to_json() == said and "laterMember" in said["listing"]
    assert read.document.decode() == VECTOR["listing"]["canonical"]
    assert is_signed_by(REGISTRY.digest(read.struct), read.signature, OWNER)
    less = {name: each for name, each in said["listing"].items() if name != "laterMember"}
    digest = REGISTRY.digest(SignedListing.of(less, read.signature).struct)
    assert not is_signed_by(digest, read.signature, OWNER)


def test_a_hand_over_and_a_request_for_a_key_are_read_alike() -> None:
    """Header and bodies of other implementations are ours."""
    said = VECTOR["handOver"]
    read = HandOver.from_header(said["header"])
    assert read.to_json() == said["message"] and read.to_header() == said["header"]
    request = VECTOR["keyRequest"]["message"]
    assert SignedKeyRequest.from_json(request).to_json() == request
    ended = VECTOR["endCustody"]["message"]
    assert SignedEndCustody.from_json(ended).to_json() == ended


def test_a_certificate_is_of_its_list() -> None:
    """A word that was added to what was destroyed, or taken from what was left, is found."""
    said = VECTOR["certificate"]["signed"]
    read = DestructionCertificate.from_json(said)
    domain = settlement_domain(VECTOR["chainId"], parse_address(VECTOR["settlement"]))
    read.verify(domain)
    assert read.to_json() == said
    for changed in (replace(read, left=()), replace(read, destroyed=read.destroyed[:1])):
        with pytest.raises(InvalidSignature):
            changed.verify(domain)
