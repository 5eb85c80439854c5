"""Set the files of an empty channel aside, so that the next one begins with a new session key.

A ledger that was lost, or is older than the chain's or the node's, can never pay from its channel
again: the key may have signed what it does not know. Owns when the files may go.

Invariant: nothing is deleted. ``viz channel leave --signer`` reaches the channel of the old key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from viz.buyer.ledger.ledger import DEPOSIT_FILE, directory_of, hold
from viz.buyer.wallet.signing import CLOCKS_DIFFER_S
from viz.domain.display import amount, moment
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.units import Address
from viz.errors import ChannelUnknown, InvalidRequest, StoreError
from viz.private import make_private_folder
from viz.protocol.credential import Deposit
from viz.protocol.wire import parse_json

ASIDE: Final = "former-channels"


async def renew(
    home: Path, trusted: Deployment, chain: ChainReader, signer: Address, node: Address
) -> Path:
    """Move the files of the channel to ``home``'s former channels; return where they are.

    The chain must show the channel empty, in its newest block and at the confirmation depth. Raises
    ChannelUnknown, InvalidRequest (money is in it, or a deposit may still arrive), ConfigError
    (another process holds it), StoreError, ChainError.
    """
    directory = directory_of(home, trusted, node)
    lock = hold(directory)
    try:
        for confirmed in (False, True):
            seen = await chain.channel(signer, node, confirmed=confirmed)
            if seen is None:
                raise ChannelUnknown(
                    f"this chain does not show a channel of {signer} to {node}: ask again when its "
                    "opening is confirmed, or name the right chain with --rpc"
                )
            if seen.deposit_units:
                raise InvalidRequest(
                    f"{amount(seen.deposit_units, trusted)} are in the channel: get them back with "
                    "`viz channel close` or `viz channel leave` first, and wait until that is "
                    "confirmed"
                )
        _require_none_under_way(directory / DEPOSIT_FILE, await chain.chain_time())
        aside = home / ASIDE / f"{directory.name}-{signer[2:].lower()}"
        try:
            make_private_folder(aside.parent)
            directory.rename(aside)
        except OSError as error:
            raise StoreError(
                f"{directory} cannot be moved to {aside} ({error.strerror}): nothing was changed"
            ) from error
        return aside
    finally:
        lock.release()


def _require_none_under_way(path: Path, chain_time_s: int) -> None:
    """Raise InvalidRequest while a signed deposit may still arrive in the channel."""
    try:
        found = parse_json(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, InvalidRequest) as error:
        raise InvalidRequest(
            f"{path} cannot be read: a deposit that it names may still arrive; remove the file an "
            "hour after it was written"
        ) from error
    deposit = Deposit.from_json(found.get("deposit"), "the deposit under way")
    until_s = deposit.valid_before_s + CLOCKS_DIFFER_S
    if chain_time_s <= until_s:
        raise InvalidRequest(
            f"a deposit was signed that may still arrive until {moment(until_s)}: ask after that"
        )
