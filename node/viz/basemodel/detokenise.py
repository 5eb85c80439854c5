"""Convert token ids to text, one token at a time, without splitting a character.

Keeps only the bytes of an unfinished character. Invariant: the pieces joined (with ``flush``) equal
the tokenizer's decoding of all ids at once.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping


def byte_alphabet() -> dict[str, int]:
    """Return the printable character that stands for each byte in byte-level BPE (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in plain]
    alphabet = {chr(byte): byte for byte in plain}
    alphabet |= {chr(256 + place): byte for place, byte in enumerate(shifted)}
    return alphabet


class Detokeniser:
    """The decoder of one sequence; ``table`` maps an id to its bytes, and has no control tokens."""

    def __init__(self, table: Mapping[int, bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """Return the text that is complete now; keep the bytes of an unfinished character."""
        return self._decoder.decode(b"".join(self._table.get(i, b"") for i in ids))

    def flush(self) -> str:
        """Return the rest at the end of the sequence: U+FFFD for an unfinished character."""
        return self._decoder.decode(b"", final=True)
