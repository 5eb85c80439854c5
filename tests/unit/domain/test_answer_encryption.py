"""What was sealed is opened by its token and its name, and by nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viz.domain.answer_encryption import NONCE_BYTES, private_hash, seal, unseal

NONCE = bytes(range(NONCE_BYTES))


@given(st.text(), st.text(), st.binary())
def test_what_was_sealed_comes_back(token: str, name: str, body: bytes) -> None:
    """An answer that cannot be read again would be lost to its buyer, who paid for it."""
    sealed = seal(token, name, body, nonce=NONCE)
    assert unseal(token, name, sealed) == body
    assert sealed != seal(token, name, body, nonce=bytes(NONCE_BYTES))


@pytest.mark.parametrize(
    ("token", "name", "change"),
    [("other", "name", 0), ("token", "other", 0), ("token", "name", 1)],
)
def test_nothing_else_opens_it(token: str, name: str, change: int) -> None:
    """Neither another's token nor another request's name; and a changed byte shows."""
    sealed = bytearray(seal("token", "name", b"an answer", nonce=NONCE))
    sealed[-1] ^= change
    with pytest.raises(ValueError, match="MAC"):
        unseal(token, name, bytes(sealed))
    for short in (b"", bytes(20)):
        with pytest.raises(ValueError, match=r".+"):
            unseal("token", "name", short)


def test_what_was_said_cannot_be_guessed_from_its_hash() -> None:
    assert private_hash("a", b"yes") == private_hash("a", b"yes") != private_hash("b", b"yes")
