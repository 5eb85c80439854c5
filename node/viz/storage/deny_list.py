"""Keep the list of blobs that this node must not store or serve, in IPFS's compact format.

Owns one file, to which lines are only appended, because IPFS daemons that follow the file expect
that. Source: the Compact Denylist Format of specs.ipfs.tech (IPIP-383). Invariant: when ``add`` has
returned, the CID is on the disk, and is denied as long as the file exists.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from viz.domain.units import Cid
from viz.errors import InvalidRequest, StorageUnavailable
from viz.private import make_private_file
from viz.storage.cid import to_binary

MAX_LIST_BYTES: Final = 64 * 1024 * 1024
_RULE: Final = "/ipfs/"
_HEADER: Final = """version: 1
name: viz-withdrawn
description: Blobs of works that were withdrawn. Written by the node; append, or leave it as it is.
---
"""


class DenyList:
    """The denied CIDs of one file."""

    def __init__(self, path: Path) -> None:
        """Read the file if it exists. Raises StorageUnavailable if it cannot be read."""
        self._path = path
        self._cids = _read(path)

    def __contains__(self, cid: Cid) -> bool:
        return cid in self._cids

    def add(self, cid: Cid, reason: str) -> None:
        """Append a CID with a comment, and return when it is on the disk. Blocks.

        Raises InvalidRequest if ``cid`` is not a CID, StorageUnavailable.
        """
        to_binary(cid)
        if cid in self._cids:
            return
        comment = "".join(each if each.isprintable() else " " for each in reason)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            make_private_file(self._path)
            with self._path.open("a", encoding="utf-8") as file:
                if not file.tell():
                    file.write(_HEADER)
                # Without this, a line cut off by a kill would run into the new one.
                file.write(f"\n# {comment}\n{_RULE}{cid}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageUnavailable(f"{self._path} cannot be written: {error.strerror}") from error
        self._cids.add(cid)


def _read(path: Path) -> set[Cid]:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise StorageUnavailable(f"{path} has more than {MAX_LIST_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageUnavailable(f"{path} cannot be read as a deny list: {error}") from error
    found = set()
    for line in text.splitlines():
        # Other kinds of lines (paths, double hashes, exceptions) are for IPFS daemons.
        name = line.strip().removeprefix(_RULE).partition(" ")[0]
        if line.strip().startswith(_RULE):
            try:
                to_binary(name)
            except InvalidRequest:
                continue
            found.add(Cid(name))
    return found
