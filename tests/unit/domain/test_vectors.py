"""The golden vectors, which Solidity's tests read too, are what this code computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripts.make_vectors import text_of, vectors

from viz.domain.claim import pack_rows, unpack_rows
from viz.domain.eip712 import recover

DIRECTORY = Path(__file__).parents[2] / "vectors"


@pytest.mark.parametrize("name", sorted(vectors()))
def test_the_committed_vectors_are_current(name: str) -> None:
    """A change of what is signed or claimed must show as a change of a committed file."""
    assert (DIRECTORY / name).read_text() == text_of(vectors()[name])


def test_every_signature_in_the_vectors_recovers() -> None:
    """The vectors prove something: each signature names its signer in both forms."""
    for struct in json.loads((DIRECTORY / "eip712.json").read_text())["structs"]:
        for form in ("signature", "compactSignature"):
            digest, signature = (bytes.fromhex(struct[key][2:]) for key in ("digest", form))
            assert recover(digest, signature) == struct["signer"]  # type: ignore[arg-type]


def test_claim_rows_unpack_to_what_was_packed() -> None:
    """What a node sends on chain can be read back from the chain, byte for byte."""
    packed = bytes.fromhex(json.loads((DIRECTORY / "claim.json").read_text())["packed"][2:])
    assert pack_rows(unpack_rows(packed)) == packed
    assert len(unpack_rows(packed)) == 3
