"""Record the signatures that an owner gave away, so that an older one cannot undo a newer one.

A relayed signature is valid until its deadline, whatever the node that has it says. The contract
accepts an owner's signatures in the order of their nonces, each nonce once, so one with a higher
nonce can be used after one that is signed now. Of several with the same nonce, at most one is ever
used.

An older signature undoes a newer action only if it is for the same work and has another effect.
Nothing undoes a withdrawal, which the contract has for ever. A registration makes a new work, whose
id nobody knows before: its record holds its signature (``viz.creator.registration``).

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
from viz.domain.units import Address, ContentId
from viz.errors import InvalidRequest
from viz.private import make_private_folder, write_private
from viz.protocol.wire import JSON_INTEGER_MAX, Reader

FOLDER: Final = "signatures"
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class SignatureOut:
    """A signature that left this machine; its holder can use it until its deadline.

    ``what`` names its whole effect: two with the same text do the same. ``content_id`` is None in
    what an earlier version recorded, which may be of any work.
    """

    nonce: int
    deadline_s: int
    what: str
    content_id: ContentId | None

    def undoes(self, new: SignatureOut) -> bool:
        """Return whether this one could undo or change what ``new`` does, if used after it."""
        return self.content_id in (None, new.content_id) and self.what != new.what


class SignaturesOut:
    """The unexpired signatures that one signer gave away for one registry."""

    def __init__(self, folder: Path, chain_id: int, registry: Address, signer: Address) -> None:
        self._path = folder / FOLDER / f"{chain_id}-{registry}-{signer}.json"

    def require_in_order(self, new: SignatureOut, now_s: int) -> None:
        """Raise InvalidRequest if one that undoes ``new`` was given away with a higher nonce."""
        for each in self._valid(now_s):
            if each.nonce > new.nonce and each.undoes(new):
                raise InvalidRequest(
                    f"you gave away a signature with nonce {each.nonce} ({each.what}), and now "
                    f"nonce {new.nonce} is asked for: the older one could be used after this one. "
                    f"Wait {each.deadline_s - now_s} s, until it has expired. Other works need not "
                    "wait, and neither does a withdrawal"
                )

    def undone_by_same_nonce(self, new: SignatureOut, now_s: int) -> bool:
        """Return whether one that undoes ``new`` was given away with its nonce."""
        return any(each.nonce == new.nonce and each.undoes(new) for each in self._valid(now_s))

    def from_nonce(self, nonce: int, now_s: int) -> tuple[SignatureOut, ...]:
        """Return what could still be used if ``nonce`` is the next: the latest of each effect."""
        found = sorted(self._valid(now_s), key=lambda each: each.deadline_s)
        latest = {(each.nonce, each.what): each for each in found if each.nonce >= nonce}
        return tuple(latest[key] for key in sorted(latest))

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
    found = {"nonce": str(signed.nonce), "deadline": signed.deadline_s, "what": signed.what}
    return found if signed.content_id is None else {**found, "work": str(signed.content_id)}


def _from_json(value: object) -> SignatureOut:
    reader = Reader(value, "a signature that is out")
    deadline_s = reader.integer("deadline", JSON_INTEGER_MAX)
    work = ContentId(reader.units("work", JSON_INTEGER_MAX)) if reader.has("work") else None
    return SignatureOut(reader.units("nonce"), deadline_s, reader.text("what"), work)
