"""What a buyer has signed, kept so that no crash can make it sign the same money twice.

Owns one directory a channel: the session key (encrypted) and an append-only file of changes to the
channel's ``Curve``. Does not know HTTP, nor when to pay.

Invariants: a change that a signature depends on is on disk (fsync) before ``commit`` returns, and
nothing signs without it; one process at a time holds a channel's directory; a line that a crash
cut short is dropped, since its signature never left.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Final

from viz.buyer.ledger_format import (
    observation_line,
    receipt_line,
    replay,
    signing_line,
    snapshot_line,
)
from viz.chain.keys import create_key_file, load_key_file
from viz.domain.curve import Curve, Link, observe
from viz.domain.ports import ChannelState, Deployment
from viz.domain.units import Address
from viz.domain.wire import Json
from viz.errors import BooksMismatch, ConfigError, InvalidRequest, StoreError

COMPACT_AFTER_LINES: Final = 1_000
_LEDGER: Final = "ledger.jsonl"
_KEY: Final = "session.key.json"


class ChannelLedger:
    """One channel's curve on disk."""

    def __init__(self, directory: Path, curve: Curve, session_key: bytes, lock: int) -> None:
        self._directory = directory
        self._lock = lock
        self._session_key = session_key
        self._lines = 0
        self.curve = curve

    @property
    def session_key(self) -> bytes:
        """The private key that signs this channel's vouchers."""
        return self._session_key

    @classmethod
    def open(
        cls,
        home: Path,
        deployment: Deployment,
        node: Address,
        password: str,
        *,
        scrypt_n: int | None = None,
    ) -> ChannelLedger:
        """Load the channel to ``node``, or begin one with a fresh session key.

        Blocks for the key file's derivation (about a second). Raises InvalidKeyFile, ConfigError
        (another process holds it), BooksMismatch (the file is damaged).
        """
        place = f"{deployment.chain_id}-{deployment.settlement[2:10]}-{node[2:]}".lower()
        directory = home / "channels" / place
        directory.mkdir(parents=True, exist_ok=True)
        lock = _hold(directory)
        try:
            key_file = directory / _KEY
            if key_file.exists():
                account = load_key_file(key_file, password)
            elif (directory / _LEDGER).exists():
                raise BooksMismatch(f"{directory} has a ledger without its session key {_KEY}")
            elif scrypt_n is None:
                account = create_key_file(key_file, password)
            else:
                account = create_key_file(key_file, password, scrypt_n=scrypt_n)
            blank = Curve(signer=Address(account.address), node=node)
            ledger = cls(directory, blank, bytes(account.key), lock)
            ledger._load()
        except BaseException:
            os.close(lock)
            raise
        return ledger

    def close(self) -> None:
        """Let another process have the channel."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # changes, each durable when the call returns

    def commit_signing(self, after: Curve) -> None:
        """Make a raised vector and its end point durable; only then may its voucher be signed."""
        raised = {
            key: units for key, units in after.vector.items() if units != self.curve.vector.get(key)
        }
        if raised:
            self._append(signing_line(raised))
        self.curve = after

    def commit_observation(self, seen: ChannelState) -> None:
        """Make a confirmed reading of the chain durable; raise BooksMismatch as the curve does."""
        after = observe(self.curve, seen)
        if after != self.curve:
            self._append(observation_line(seen))
        self.curve = after

    def commit_receipt(self, after: Curve, link: Link) -> None:
        """Keep a verified receipt. Not synced: a lost one is asked from the node again."""
        self._append(receipt_line(link), sync=False)
        self.curve = after

    # the file

    def _load(self) -> None:
        path = self._directory / _LEDGER
        if not path.exists():
            return
        raw = path.read_bytes()
        whole, _, cut = raw.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                self.curve = replay(self.curve, line)
            except (ValueError, KeyError, TypeError, InvalidRequest) as error:
                raise BooksMismatch(
                    f"{path}, line {number}, cannot be read: restore it, or close the channel and "
                    "open one with a new session key"
                ) from error
            self._lines += 1
        if cut or self._lines > COMPACT_AFTER_LINES:
            self._compact()

    def _append(self, change: Json, *, sync: bool = True) -> None:
        handle = os.open(
            self._directory / _LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode=0o600
        )
        before = os.fstat(handle).st_size
        try:
            line = json.dumps(change, separators=(",", ":")).encode() + b"\n"
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, "No space left on device")
            if sync:
                os.fsync(handle)
        except OSError as error:
            # What follows must not be glued to half a line.
            os.ftruncate(handle, before)
            raise StoreError(
                f"{self._directory / _LEDGER} cannot be written ({error.strerror}): nothing was "
                "signed; make room and ask again"
            ) from error
        finally:
            os.close(handle)
        if self._lines == 0:
            _sync_directory(self._directory)
        self._lines += 1

    def _compact(self) -> None:
        path, fresh = self._directory / _LEDGER, self._directory / f"{_LEDGER}.new"
        snapshot = json.dumps(snapshot_line(self.curve)).encode() + b"\n"
        with fresh.open("wb") as file:
            file.write(snapshot)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync_directory(self._directory)
        self._lines = 1


def _hold(directory: Path) -> int:
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise ConfigError(
            f"another process pays from {directory}: stop it, or use another buyer directory"
        ) from error
    return handle


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
