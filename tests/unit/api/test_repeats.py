"""A kept answer is encrypted anew each time."""

from __future__ import annotations

from viz.api.openai.repeats import Repeat
from viz.domain.ports.ledger import AccessRecord
from viz.domain.units import ZERO_ADDRESS, Hash32


def test_the_same_answer_twice_does_not_look_the_same() -> None:
    """A nonce that came twice would open both answers to whoever reads the ledger's file."""
    access = AccessRecord(Hash32(bytes(32)), ZERO_ADDRESS, 0)
    repeat = Repeat(access, "token", "key", b"asked")
    first, second = (repeat.record("text/plain", b"an answer", 0) for _ in range(2))
    assert first.body and second.body and first.body[:12] != second.body[:12]
    assert first.response_hash == second.response_hash
