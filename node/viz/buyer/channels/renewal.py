"""Set the files of an empty channel aside, so that the next one begins with a new session key.

A ledger that was lost, or is older than the chain's or the node's, can never pay from its channel
again: the key may have signed what it does not know. Owns when the files may go.

Invariant: nothing is lost or replaced. ``viz channel leave --signer`` reaches the channel of the
old key.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from viz.buyer.ledger.folders import (
    DEPOSIT_FILE,
    FORMER,
    SAID_DEPOSITS,
    directory_of,
    hold,
    signer_in,
)
from viz.buyer.wallet.signing import CLOCKS_DIFFER_S, has_arrived
from viz.domain.display import amount, moment
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.units import Address
from viz.errors import ChannelUnknown, InvalidRequest, StoreError
from viz.private import make_private_folder, sync_to_disk
from viz.protocol.credential import Deposit
from viz.protocol.wire import parse_json


@dataclass(frozen=True, slots=True)
class Renewed:
    """Where the old files are, and whether the chain knows the channel that they were of."""

    aside: Path
    on_chain: bool


async def renew(
    home: Path, trusted: Deployment, chain: ChainReader, signer: Address, node: Address
) -> Renewed:
    """Move the files of the channel to ``home``'s former channels.

    The chain must show the channel empty, or no such channel, in its newest block and at the
    confirmation depth, and no signed deposit may arrive in it any more. Raises ChannelUnknown,
    InvalidRequest (money is in it, a deposit may still arrive, or the files are another key's),
    ConfigError (another process holds it), StoreError, ChainError.
    """
    directory = directory_of(home, trusted, node)
    if not directory.is_dir():
        raise ChannelUnknown(
            f"{home} has no files of a channel to {node}: there is nothing to set aside, and `viz "
            "channel open` begins with a new session key"
        )
    lock = hold(directory)
    try:
        if (kept := signer_in(directory)) not in (None, signer):
            raise InvalidRequest(
                f"{directory} holds the session key {kept}, and --signer names {signer}: leave "
                "--signer out to set this channel aside"
            )
        # Before the channel is read: a deposit that arrived is in what the chain then shows.
        await _require_none_under_way(directory, chain)
        on_chain = await _require_empty(trusted, chain, signer, node)
        return Renewed(_set_aside(directory, home / FORMER, signer), on_chain)
    finally:
        lock.release()


async def _require_empty(
    trusted: Deployment, chain: ChainReader, signer: Address, node: Address
) -> bool:
    """Return whether the chain knows the channel; raise if money is, or may be, in it."""
    readings = [await chain.channel(signer, node, confirmed=each) for each in (False, True)]
    for seen in readings:
        if seen is not None and seen.deposit_units:
            raise InvalidRequest(
                f"{amount(seen.deposit_units, trusted)} are in the channel: get them back with "
                "`viz channel close` or `viz channel leave` first, and wait until that is "
                "confirmed"
            )
    known = [seen is not None for seen in readings]
    if any(known) and not all(known):
        raise ChannelUnknown(
            f"this chain does not show the channel of {signer} to {node} at its confirmation depth "
            "yet: ask again when its opening is confirmed"
        )
    return all(known)


def _set_aside(directory: Path, folder: Path, signer: Address) -> Path:
    """Move the folder to a name that nothing has yet: a copy of it may have been set aside."""
    name = f"{directory.name}-{signer[2:].lower()}"
    names = (name if number == 1 else f"{name}.{number}" for number in count(1))
    aside = next(path for each in names if not os.path.lexists(path := folder / each))
    try:
        make_private_folder(folder)
        try:
            directory.rename(aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _move_to_another_disk(directory, aside)
    except OSError as error:
        raise StoreError(
            f"{directory} cannot be moved to {aside} ({error.strerror}): it is used as before"
        ) from error
    return aside


def _move_to_another_disk(directory: Path, aside: Path) -> None:
    """Copy the folder, and remove it when the whole copy is on the other disk. Raises OSError.

    A kill leaves the folder as it was, or a hidden one beside it that nothing uses.
    """
    partial = aside.with_name(f".{aside.name}.new")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(directory, partial, symlinks=True, ignore=_sockets)
        for path in (*partial.rglob("*"), partial):
            if not path.is_symlink():
                sync_to_disk(path)
        partial.rename(aside)
    except shutil.Error as error:  # a list of what could not be copied
        raise OSError(errno.EIO, str(error.args[0][0][2])) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_to_disk(aside.parent)
    left = directory.with_name(f".{directory.name}.moved")
    shutil.rmtree(left, ignore_errors=True)
    directory.rename(left)  # at once: a part of a channel's folder would be damage
    shutil.rmtree(left, ignore_errors=True)


def _sockets(folder: str, names: list[str]) -> list[str]:
    """Return those of a proxy that was killed; none runs, for its lock is held here."""
    return [name for name in names if (Path(folder) / name).is_socket()]


async def _require_none_under_way(directory: Path, chain: ChainReader) -> None:
    """Raise InvalidRequest while a signed deposit may still arrive in the channel."""
    for deposit in _deposits_in(directory):
        until_s = deposit.valid_before_s + CLOCKS_DIFFER_S
        if await chain.chain_time() <= until_s and not await has_arrived(deposit, chain):
            raise InvalidRequest(
                f"a deposit was signed that may still arrive until {moment(until_s)}: ask after "
                "that"
            )


def _deposits_in(directory: Path) -> list[Deposit]:
    """Return the deposits that the buyer's own chain has not shown yet, as far as is known."""
    found: list[Deposit] = []
    for path in (directory / DEPOSIT_FILE, *sorted(directory.glob(SAID_DEPOSITS))):
        try:
            kept = parse_json(path.read_bytes()).get("deposit")
            found.append(Deposit.from_json(kept, "the deposit under way"))
        except FileNotFoundError:
            continue
        except (OSError, InvalidRequest) as error:
            raise InvalidRequest(
                f"{path} cannot be read: a deposit that it names may still arrive; remove the file "
                "an hour after it was written"
            ) from error
    return found
