"""Keep which custodians may hold a work's key, so that its owner can end the custody of each.

Owns a file for each chain, registry and work in ``custodians/`` of the data folder. Invariant: a
custodian is in it from before the key is sent there until its certificate of the end has come, it
refused the work, or it answered that it never held it. Commands that run at once take turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from viz.domain.ports.chain import Deployment
from viz.domain.strict_json import load_json
from viz.domain.units import Address, ContentId
from viz.errors import InvalidRequest, StorageUnavailable
from viz.private import make_private_folder, write_private
from viz.process_lock import ProcessLock
from viz.protocol.listing import CustodianAddress
from viz.protocol.wire import Reader

FOLDER: Final = "custodians"
_LOCK: Final = "lock"
_MOST: Final = 10_000


class KnownCustodians:
    """The custodians of one work that the data folder knows. Its methods block."""

    def __init__(self, folder: Path, deployment: Deployment, content_id: ContentId) -> None:
        where = f"{deployment.chain_id}-{deployment.content_registry}-{content_id}.json"
        self._path = folder / FOLDER / where

    def all(self) -> tuple[CustodianAddress, ...]:
        """Return them, each node once; raise InvalidRequest if the file is damaged."""
        try:
            reader = Reader(load_json(self._path.read_bytes()), "the known custodians")
            found = reader.array("custodians", _MOST)
            return tuple(CustodianAddress.from_json(each) for each in found)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, InvalidRequest) as error:
            raise InvalidRequest(
                f"{self._path} cannot be read, and tells which custodians may hold the work: copy "
                f"their URLs out of it, then move it away ({error})"
            ) from error

    def begin(self, listed: Iterable[CustodianAddress]) -> None:
        """Keep those that an earlier listing names, if no file tells yet who holds the work.

        A file that is there knows better: a listing also names those whose custody was ended.
        """
        with self._held():
            if not self._path.exists():
                self._write(listed)

    def add(self, custodians: Iterable[CustodianAddress]) -> None:
        """Add custodians, before they get the key; a node's latest URL counts."""
        with self._held():
            self._write({each.node: each for each in (*self.all(), *custodians)}.values())

    def drop(self, node: Address) -> None:
        """Remove a custodian that holds nothing of the work; makes no file if there is none."""
        if all(each.node != node for each in self.all()):
            return
        with self._held():
            self._write(each for each in self.all() if each.node != node)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Let no other command change the file meanwhile; raise StorageUnavailable if it fails."""
        try:
            make_private_folder(self._path.parent)
            lock = ProcessLock.wait(self._path.with_name(_LOCK))
            try:
                yield
            finally:
                lock.release()
        except OSError as error:
            raise StorageUnavailable(
                f"{self._path} cannot be written ({error.strerror}), and tells which custodians "
                "may hold the work: make room, or get the right to write there, and run the "
                "command again"
            ) from error

    def _write(self, custodians: Iterable[CustodianAddress]) -> None:
        written = {"custodians": [each.to_json() for each in custodians]}
        write_private(self._path, json.dumps(written, indent=2).encode() + b"\n")
