"""Define what a node can have of a work, and hash the list of what it destroyed.

Owns the items of a certificate of destruction and the hash that its signature covers;
``viz.protocol.destruction`` has the certificate. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import rfc8785

from viz.domain.eip712 import keccak
from viz.domain.units import Hash32

# What no node can undo. Part of every certificate, and so of its hash.
BEYOND_RECALL: Final = (
    "answers and blobs that others read while the work was licensed",
    "copies in backups, and on disks that keep old blocks, of this machine and of others",
    "the work's commitment, terms and past payments on the chain",
)

# What a custodian has of a work for others, as kinds of items; it has no use of the work by it.
SEALED_WORK: Final = "sealed work"
SEALED_WORK_KEY: Final = "key of the sealed work"
PLACE_IN_CUSTODY: Final = "place in custody"
IN_CUSTODY: Final = frozenset({SEALED_WORK, SEALED_WORK_KEY, PLACE_IN_CUSTODY})
# The public description of the work by its owner, in which a sample of the text may be.
LISTING: Final = "listing with its sample"


@dataclass(frozen=True, slots=True, order=True)
class HeldItem:
    """One item that a node has of a work.

    ``kind`` is its type, such as ``weights`` or ``blob``; ``name`` identifies it: a CID, the id of
    a run, or a file. At the node a file's name is its whole path; in a certificate it is the path
    below the data folder, or the file's name alone if it is elsewhere.
    """

    kind: str
    name: str


@dataclass(frozen=True, slots=True, order=True)
class LeftItem:
    """One item that a node did not destroy, and why."""

    kind: str
    name: str
    reason: str

    @property
    def item(self) -> HeldItem:
        return HeldItem(self.kind, self.name)


def items_hash(
    destroyed: Sequence[HeldItem], left: Sequence[LeftItem], beyond_recall: Sequence[str]
) -> Hash32:
    """Return keccak256 of the canonical JSON (RFC 8785) of a certificate's list."""
    listed: dict[str, Any] = {
        "destroyed": [{"kind": each.kind, "name": each.name} for each in destroyed],
        "left": [{"kind": each.kind, "name": each.name, "reason": each.reason} for each in left],
        "beyondRecall": list(beyond_recall),
    }
    return keccak(rfc8785.dumps(listed))
