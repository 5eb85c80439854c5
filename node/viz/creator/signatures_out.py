"""Record the signatures that an owner gave away, so that an older one cannot undo a newer one.

A relayed signature is valid until its deadline, whatever the node that has it says. The contract
accepts an owner's signatures in the order of their nonces, each nonce once. So a new signature must
not have a lower nonce than one that was given away, which could then be used after it. Of several
signatures with the same nonce, at most one is ever used.

Owns a file for each chain, registry and signer in ``signatures/`` of the data folder. Invariant: a
signature is recorded on disk before it leaves this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from viz.domain.strict_json import load_json
from viz.domain.units import Address
from viz.errors import InvalidRequest
from viz.private import make_private_folder, write_private
from viz.protocol.wire import JSON_INTEGER_MAX, Reader

FOLDER: Final = "signatures"
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class SignatureOut:
    """A signature that left this machine; its holder can use it until its deadline."""

    nonce: int
    deadline_s: int
    what: str


class SignaturesOut:
    """The unexpired signatures that one signer gave away for one registry."""

    def __init__(self, folder: Path, chain_id: int, registry: Address, signer: Address) -> None:
        self._path = folder / FOLDER / f"{chain_id}-{registry}-{signer}.json"

    def require_in_order(self, nonce: int, now_s: int) -> None:
        """Raise InvalidRequest if a signature with a higher nonce was given away."""
        for each in self._valid(now_s):
            if each.nonce > nonce:
                raise InvalidRequest(
                    f"you gave away a signature with nonce {each.nonce} ({each.what}), and now "
                    f"nonce {nonce} is asked for: the older one could be used after this one. Wait "
                    f"{each.deadline_s - now_s} s, until it has expired"
                )

    def holds(self, nonce: int, now_s: int) -> bool:
        """Return whether a signature with that nonce was given away and is still valid."""
        return any(each.nonce == nonce for each in self._valid(now_s))

    def note(self, signed: SignatureOut, now_s: int) -> None:
        """Record a signature before it is given away; remove the expired ones."""
        kept = [*self._valid(now_s), signed][-_MOST:]
        make_private_folder(self._path.parent)
        written = {"signatures": [_json(each) for each in kept]}
        write_private(self._path, json.dumps(written, indent=2).encode() + b"\n")

    def _valid(self, now_s: int) -> list[SignatureOut]:
        return [each for each in self._read() if each.deadline_s >= now_s]

    def _read(self) -> Iterable[SignatureOut]:
        try:
            reader = Reader(load_json(self._path.read_bytes()), "the signatures that are out")
            return [_from_json(each) for each in reader.array("signatures", _MOST)]
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, InvalidRequest) as error:
            raise InvalidRequest(
                f"{self._path} cannot be read, and tells which of your signatures are out: wait an "
                f"hour, until they have expired, then move it away ({error})"
            ) from error


def _json(signed: SignatureOut) -> dict[str, object]:
    return {"nonce": str(signed.nonce), "deadline": signed.deadline_s, "what": signed.what}


def _from_json(value: object) -> SignatureOut:
    reader = Reader(value, "a signature that is out")
    deadline_s = reader.integer("deadline", JSON_INTEGER_MAX)
    return SignatureOut(reader.units("nonce"), deadline_s, reader.text("what"))
