"""Keep on disk what a buyer has signed, so that it cannot sign the same money twice after a crash.

Owns one directory per channel: the session key (encrypted), an append-only file of changes to the
channel's ``BuyerChannel``, the requests that are not billed yet, the node's standing, and the
latest signed deposit until it is confirmed, or can no longer arrive if only the node says so.

Invariants: a change that a signature depends on is on disk (fsync) before its ``commit_`` call
returns, and nothing is signed without it; one process at a time holds a channel's directory; a line
that a crash cut short is dropped, because its signature was never sent.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from viz.buyer.ledger.folders import (
    DEPOSIT_FILE,
    KEY_FILE,
    LEDGER_FILE,
    NO_KEY,
    SAID_DEPOSITS,
    STANDING_FILE,
    directory_of,
    hold,
    signer_in,
)
from viz.buyer.ledger.format import (
    billed_by,
    final_line,
    observation_line,
    receipt_line,
    replay,
    said_line,
    signing_line,
    snapshot_line,
)
from viz.buyer.ledger.held import shrink_held
from viz.buyer.ledger.node_standing import NodeStanding
from viz.buyer.ledger.on_disk import standing_on_disk
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.ledger.request_journal import ASKED, RequestJournal
from viz.chain.keys import create_key_file, load_key
from viz.domain.buyer_channel import BuyerChannel, ReceiptLink, hear, observe
from viz.domain.eip712 import public_address
from viz.domain.ports.chain import ChannelState, Deployment
from viz.domain.units import Address, Units
from viz.errors import BooksMismatch, ConfigError, InvalidKeyFile, InvalidRequest, StoreError
from viz.private import close_if_there, make_private_folder, sync_to_disk, write_private
from viz.process_lock import ProcessLock
from viz.protocol.wire import Json, parse_json

COMPACT_AFTER_LINES: Final = 1_000
MAX_RECORD_BYTES: Final = 4 * 1024 * 1024
# OWASP's minimum for r=8 and p=1. Every command opens the file, and the 2^18 of a wallet would
# double that wait. With a lower cost the wallet's password is cheaper to guess too, because most
# people use one password for both files. Files with 2^16 still open: each file names its own cost.
_SCRYPT_N: Final = 2**17


class BuyerLedger:
    """One channel on disk, as its buyer sees it."""

    def __init__(
        self, directory: Path, channel: BuyerChannel, session_key: bytes, lock: ProcessLock
    ) -> None:
        self._directory = directory
        self._lock = lock
        self._session_key = session_key
        self._lines = 0
        self._good_bytes: int | None = None
        self._asked = RequestJournal(directory / ASKED)
        self._billed: set[str] = set()
        self.channel = channel
        self.standing = NodeStanding()
        self.unbilled: list[OpenRequest] = []

    @property
    def directory(self) -> Path:
        """The folder that holds the channel's files."""
        return self._directory

    @property
    def home(self) -> Path:
        """The buyer's folder, which holds the channels."""
        return self._directory.parent.parent

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
    ) -> BuyerLedger:
        """Load the channel to ``node``, or begin one with a new session key.

        Blocks while the key is derived from the password (about a second). Raises InvalidKeyFile,
        ConfigError (another process holds the channel, or its folder cannot be made), BooksMismatch
        (a file is damaged).
        """
        directory = directory_of(home, deployment, node)
        try:
            for folder in (home, directory.parent, directory):
                make_private_folder(folder)
        except OSError as error:
            raise ConfigError(
                f"{directory} cannot be made ({error.strerror}): name another --data-dir"
            ) from error
        lock = hold(directory)
        close_if_there(
            *(directory / name for name in ("lock", LEDGER_FILE, KEY_FILE, DEPOSIT_FILE))
        )
        try:
            key_file = directory / KEY_FILE
            if key_file.exists():
                key = _loaded(directory, password)
            elif (directory / LEDGER_FILE).exists():
                raise BooksMismatch(
                    f"{directory} has a ledger without its session key {KEY_FILE}: {NO_KEY}"
                )
            else:
                made = create_key_file(key_file, password, scrypt_n=scrypt_n or _SCRYPT_N)
                key = bytes(made.key)
            blank = BuyerChannel(signer=public_address(key), node=node)
            ledger = cls(directory, blank, key, lock)
            ledger._load()
            shrink_held(home, ledger.channel, ledger.standing, ledger.unbilled)
        except BaseException:
            lock.release()
            raise
        return ledger

    def close(self) -> None:
        """Release the channel, so that another process can open it."""
        self._lock.release()

    # changes, each durable when the call returns

    def commit_signing(self, after: BuyerChannel) -> None:
        """Make a raised vector and its end point durable; only then may its voucher be signed."""
        raised = {
            key: units
            for key, units in after.vector.items()
            if units != self.channel.vector.get(key)
        }
        # A final voucher may have raised the vector before, but signed a lower end point.
        if raised or after.total_units not in self.channel.points:
            self._append(signing_line(raised))
        self.channel = after

    def commit_final(self, after: BuyerChannel, end_units: Units) -> None:
        """Make the end point of a final voucher durable; only then may it be signed."""
        self._append(final_line(after.points[end_units], after.vector))
        self.channel = after

    def commit_observation(self, seen: ChannelState) -> None:
        """Make a confirmed reading of the chain durable; raise BooksMismatch as ``observe``."""
        after = observe(self.channel, seen)
        if after != self.channel:
            self._append(observation_line(seen))
        self.channel = after
        self.commit_standing(self.standing.proved(seen))

    def commit_said(self, said: ChannelState) -> None:
        """Make durable what the node says of the chain; raise BooksMismatch as ``hear``."""
        after = hear(self.channel, said)
        if after != self.channel:
            self._append(said_line(said))
        self.channel = after

    def commit_receipt(self, after: BuyerChannel, link: ReceiptLink, billed: str = "") -> None:
        """Keep a verified receipt; ``billed`` is the name of the request that it billed.

        The line is not synced to disk. If it is lost, the node is asked for the receipt again. The
        request's record is therefore kept until the next line is synced. Raises StoreError.
        """
        try:
            self._append(receipt_line(link, billed), sync=False)
        except StoreError as error:
            raise StoreError(
                f"{error.detail}. The answer arrived and its bill could not be kept: it is read "
                "from the node again with the next question, and is paid once"
            ) from error
        self.channel = after
        if billed:
            self._billed.add(billed)

    # requests that are not billed yet, and the node's standing

    def keep_request(self, open_request: OpenRequest) -> None:
        """Make a request durable before it is sent, and again when it ends; raise StoreError."""
        try:
            self._asked.keep(open_request)
        except OSError as error:
            raise _unwritable(self._directory / ASKED, error) from error

    def drop_request(self, open_request: OpenRequest) -> None:
        """Forget a request that can no longer be billed."""
        if open_request.name:
            self._asked.drop(open_request.name)

    def commit_standing(self, after: NodeStanding) -> None:
        """Make the node's standing durable."""
        if after != self.standing:
            self._replace(STANDING_FILE, after.to_json())
        self.standing = after

    # the deposit under way

    def keep_deposit(self, deposit: Json) -> None:
        """Make a signed deposit durable before it is sent, so that a retry sends the same one."""
        self._replace(DEPOSIT_FILE, deposit)

    def kept_deposit(self) -> Json | None:
        """Return the deposit that is not known to be confirmed; None if there is none.

        Raises BooksMismatch if its file cannot be read.
        """
        try:
            return parse_json((self._directory / DEPOSIT_FILE).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, InvalidRequest) as error:
            raise BooksMismatch(
                f"{self._directory / DEPOSIT_FILE} cannot be read: a deposit that it names may "
                "still arrive; remove the file an hour after it was written"
            ) from error

    def drop_deposit(self) -> None:
        """Forget the deposit, because it is confirmed or can no longer arrive."""
        (self._directory / DEPOSIT_FILE).unlink(missing_ok=True)

    def set_deposit_aside(self, name: str, valid_before_s: int) -> None:
        """Let another deposit be signed, because the node says that this one is confirmed.

        It is kept under another name until it can no longer arrive: a node that lies may still
        relay it, and ``viz channel renew`` asks the buyer's own chain for it. Raises StoreError.
        """
        path = self._directory / DEPOSIT_FILE
        try:
            path.rename(path.with_name(f"deposit-{valid_before_s}-{name}.json"))
        except OSError as error:
            raise _unwritable(path, error) from error

    def drop_deposits_aside(self, before_s: int) -> None:
        """Forget the deposits set aside whose validity ended before this time."""
        for path in self._directory.glob(SAID_DEPOSITS):
            valid_before = path.name.split("-")[1]
            if valid_before.isdecimal() and int(valid_before) < before_s:
                path.unlink(missing_ok=True)

    # records that hold no money

    def keep_record(self, name: str, record: Json) -> None:
        """Make a record beside the ledger durable; raise StoreError."""
        self._replace(name, record)

    def kept_record(self, name: str) -> Json:
        """Return a record, empty if it was never kept; raise BooksMismatch if it is unreadable."""
        path = self._directory / name
        try:
            return parse_json(path.read_bytes(), max_bytes=MAX_RECORD_BYTES)
        except FileNotFoundError:
            return {}
        except (OSError, InvalidRequest) as error:
            raise BooksMismatch(
                f"{path} cannot be read: restore it. It holds no money; without it you are asked "
                "again for the prices that you accepted"
            ) from error

    # the file

    def _load(self) -> None:
        whole = self._load_curve()
        if self._billed:
            # The receipts must be on disk before the requests that they billed are removed.
            sync_to_disk(self._directory / LEDGER_FILE)
        self.unbilled = self._asked.load(self._billed)
        self._billed.clear()
        self.standing = standing_on_disk(self._directory, self.channel)
        if not whole or self._lines > COMPACT_AFTER_LINES:
            self._compact()

    def _load_curve(self) -> bool:
        """Replay the changes; return whether the last line is whole."""
        path = self._directory / LEDGER_FILE
        if not path.exists():
            return True
        raw = path.read_bytes()
        whole, _, cut = raw.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                self.channel = replay(self.channel, line)
                self._billed |= billed_by(line)
            except (ValueError, KeyError, TypeError, InvalidRequest) as error:
                raise BooksMismatch(
                    f"{path}, line {number}, cannot be read: restore its latest copy. If there is "
                    "none, `viz channel leave` brings the deposit back, and `viz channel renew` "
                    "then begins with a new session key"
                ) from error
            self._lines += 1
        return not cut

    def _append(self, change: Json, *, sync: bool = True) -> None:
        line = json.dumps(change, separators=(",", ":")).encode() + b"\n"
        path = self._directory / LEDGER_FILE
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode=0o600)
            try:
                self._write(handle, line, sync=sync)
            finally:
                os.close(handle)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._lines += 1
        if sync:
            # This sync also put their receipts on disk, so these requests cannot be billed again.
            for name in self._billed:
                self._asked.drop(name)
            self._billed.clear()

    def _write(self, handle: int, line: bytes, *, sync: bool) -> None:
        if self._good_bytes is not None:
            # An earlier write failed, and its half line could not be removed then.
            os.ftruncate(handle, self._good_bytes)
            self._good_bytes = None
        before = os.fstat(handle).st_size
        try:
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, "No space left on device")
            if sync:
                os.fsync(handle)
            if self._lines == 0:
                sync_to_disk(self._directory)
        except OSError:
            # The next line must not join onto half a line, nor go into a file that a crash removes.
            self._good_bytes = before
            with suppress(OSError):
                os.ftruncate(handle, before)
                self._good_bytes = None
            raise

    def _compact(self) -> None:
        self._replace(LEDGER_FILE, snapshot_line(self.channel))
        self._lines = 1

    def _replace(self, name: str, content: Json) -> None:
        path, fresh = self._directory / name, self._directory / f"{name}.new"
        try:
            write_private(path, json.dumps(content).encode() + b"\n", fresh)
        except OSError as error:
            raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written ({error.strerror}), and nothing is signed until it can: make "
        "room and ask again"
    )


def _loaded(directory: Path, password: str) -> bytes:
    """Return the session key; say the way out if the file is damaged beyond its address."""
    try:
        return load_key(directory / KEY_FILE, password)
    except InvalidKeyFile as error:
        if signer_in(directory) is None:
            raise InvalidKeyFile(f"{error.detail}: {NO_KEY}") from error
        raise
