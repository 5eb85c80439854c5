"""The manifest: signed once, read one way, bound to its bytes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from viz.domain.eip712 import public_address
from viz.domain.manifest import (
    Manifest,
    SourceWork,
    manifest_hash,
    open_manifest,
    pre_authentication,
    seal_manifest,
    shares_by_tokens,
)
from viz.domain.units import ContentId, Hash32
from viz.errors import InvalidRequest, InvalidSignature

KEY, OTHER_KEY = bytes([1] * 32), bytes([2] * 32)


def _hash(byte: int) -> Hash32:
    return Hash32(bytes([byte] * 32))


MANIFEST = Manifest(
    trainer=public_address(KEY),
    weights_digest=_hash(3),
    base_model=_hash(4),
    base_name="base",
    works=(SourceWork(ContentId(2), _hash(5), 30, 500), SourceWork(ContentId(9), _hash(6), 3, 70)),
    rows_digest=_hash(7),
    settings={"rank": 16, "learning_rate": 0.002, "seed": 7},
    environment={"threads": 2, "packages": {"torch": "2.15.0"}},
    reproducibility="bitwise-same-cpu-class",
    measurements={"heldOut": {"after": {"loss": 0.25}}},
    started_at="2026-01-01T00:00:00Z",
    finished_at="2026-01-01T00:02:00Z",
)


def _payload(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def test_a_sealed_manifest_opens_to_itself() -> None:
    """Every fact survives, the bytes are the same each time, and the hash names them."""
    envelope = seal_manifest(MANIFEST, KEY)
    assert envelope == seal_manifest(MANIFEST, KEY)
    assert open_manifest(envelope, expected_hash=manifest_hash(envelope)) == MANIFEST


def test_any_wallet_verifies_the_signature() -> None:
    """The signature is plain EIP-191 over DSSE's encoding: eth-account agrees."""
    envelope = seal_manifest(MANIFEST, KEY)
    signature = base64.b64decode(json.loads(envelope)["signatures"][0]["sig"])
    message = encode_defunct(primitive=pre_authentication(_payload(envelope)))
    assert Account.recover_message(message, signature=signature) == MANIFEST.trainer


def test_the_encoding_is_dsse_s_own() -> None:
    """Type and body cannot flow into one another: both carry their length."""
    assert pre_authentication(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"


def test_the_statement_is_in_toto_with_slsa_provenance() -> None:
    """Tools that know neither Viz nor LoRA find subject, parameters and dependencies."""
    statement = json.loads(_payload(seal_manifest(MANIFEST, KEY)))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"][0]["digest"]["sha256"] == "03" * 32
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [d.get("uri") for d in dependencies] == [None, "urn:viz:content:2", "urn:viz:content:9"]


def test_another_s_name_or_changed_facts_are_refused() -> None:
    """Nobody signs for another trainer, and no fact changes under a signature."""
    with pytest.raises(InvalidSignature):
        seal_manifest(MANIFEST, OTHER_KEY)
    envelope = json.loads(seal_manifest(MANIFEST, KEY))
    changed = replace(MANIFEST, weights_digest=_hash(8))
    envelope["payload"] = json.loads(seal_manifest(changed, KEY))["payload"]
    with pytest.raises(InvalidSignature):
        open_manifest(json.dumps(envelope).encode())
    with pytest.raises(InvalidRequest, match="chain names"):
        open_manifest(seal_manifest(MANIFEST, KEY), expected_hash=_hash(0))


def _with_payload(change: Any) -> bytes:
    envelope = json.loads(seal_manifest(MANIFEST, KEY))
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(envelope).encode()


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"[]",
        b"{}",
        b'{"payloadType":"x","payload":"!!","signatures":[{"sig":"","keyid":"0x"}]}',
        _with_payload(lambda s: s.update(_type="other")),
        _with_payload(lambda s: s.update(extra=1)),
        _with_payload(lambda s: s["predicate"]["runDetails"]["byproducts"].pop()),
        _with_payload(lambda s: s["subject"][0]["digest"].update(sha256="00")),
        b" " * (5 * 1024 * 1024),
    ],
)
def test_malformed_manifests_are_refused(envelope: bytes) -> None:
    """Garbage, foreign statements and unknown members never pass for a manifest."""
    with pytest.raises(InvalidRequest):
        open_manifest(envelope)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=128))
def test_shares_by_tokens_sum_to_the_whole(tokens: list[int]) -> None:
    """Every work has a share, the shares sum to 10,000, and more tokens never mean less."""
    works = [SourceWork(ContentId(i + 1), _hash(1), 1, t) for i, t in enumerate(tokens)]
    shares = dict(shares_by_tokens(works))
    assert sum(shares.values()) == 10_000
    assert min(shares.values()) >= 1
    by_size = sorted(works, key=lambda work: work.tokens)
    for less, more in pairwise(by_size):
        if less.tokens < more.tokens:
            assert shares[less.content_id] <= shares[more.content_id]
