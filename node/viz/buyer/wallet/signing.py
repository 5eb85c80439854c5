"""Make the signatures of a buyer's wallet: deposits into a channel, and the request to close it.

Owns these two signatures, how long each is valid, and which deposit is under way. Does not send
them, and keeps no key of the wallet.

Invariants: a signature that moves money is valid for about an hour, by a clock that the node does
not choose; a repeated call for the same deposit gives the same signature. Otherwise a node that
says "it failed" could keep a deposit and take it years later, or take two instead of one.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final, Self

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.wallet.wallet import Wallet
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.display import amount, moment
from viz.domain.eip712 import Domain, public_address, settlement_domain, sign
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.typed_data import (
    OPEN_KIND,
    TOP_UP_KIND,
    OpenChannel,
    ReceiveWithAuthorization,
    RequestClose,
    authorization_nonce,
)
from viz.domain.units import ZERO_ADDRESS, Address, Hash32, Units
from viz.errors import ChannelClosing, InvalidRequest, NodeNotTrusted, VizError
from viz.protocol.credential import Deposit
from viz.protocol.messages import NodeInfo
from viz.protocol.wire import Reader

# In the extensions of an error that came after a deposit was signed: its amount.
SIGNED_DEPOSIT: Final = "signedDeposit"
AUTHORIZATION_VALID_S: Final = 3_600
CLOSE_VALID_S: Final = 3_600
# Block times are ahead of wall clocks by seconds, and on a busy test chain by minutes.
CLOCKS_DIFFER_S: Final = 600


def checked_chain_time_s(info: NodeInfo, own_s: int, *, from_chain: bool) -> int:
    """Return the chain time that the node states; raise NodeNotTrusted if it is too far ahead.

    ``own_s`` is this machine's clock, or with ``from_chain`` the time of a chain that the buyer
    reads itself. A time behind it is accepted: the signature then only expires sooner.
    """
    said_s = info.chain_time_s
    if said_s <= own_s + CLOCKS_DIFFER_S:
        return said_s
    ahead = f"the node says that the chain's time is {moment(said_s)}, and "
    if from_chain:
        raise NodeNotTrusted(
            f"{ahead}the chain at --rpc is at {moment(own_s)}: the node's is wrong, or that RPC "
            "endpoint is far behind; nothing was signed"
        )
    raise NodeNotTrusted(
        f"{ahead}this machine's clock shows {moment(own_s)}: if this clock is wrong, set it; if it "
        "is right, the node's is not, and nothing was signed. For a test chain whose time was "
        "moved, name the chain with --rpc"
    )


def require_depositable(channel: BuyerChannel, payer: Address) -> None:
    """Raise ChannelClosing or InvalidRequest if Settlement would refuse the wallet's deposit."""
    if channel.payer not in (ZERO_ADDRESS, payer):
        raise InvalidRequest(
            f"the channel is {channel.payer}'s, and the key is {payer}'s: only the wallet that "
            "opened a channel can add to it. Nothing was signed"
        )
    if channel.close_at_s:
        raise ChannelClosing(
            "the channel is closing, and takes no deposit until what is in it was withdrawn, which "
            f"can be done from {moment(channel.close_at_s)} on (`viz channel leave`). Nothing was "
            "signed: deposit after that",
            closeAt=channel.close_at_s,
        )


def require_no_signed_close(until_s: int, chain_s: int) -> None:
    """Raise ChannelClosing if a Close that the node signed is valid at ``chain_s``.

    It could close a new opening, so the node takes no deposit until the chain's time is past it.
    """
    if until_s and chain_s <= until_s:
        raise ChannelClosing(
            "the channel was closed by agreement, and that signature could close a new opening "
            f"until {moment(until_s)}. Nothing was signed: deposit after that by the chain's time, "
            f"which is {moment(chain_s)} and moves with each block: a local chain that nobody uses "
            "makes one when evm_mine is called at its RPC",
            until=until_s,
        )


def _end(deposit: Deposit) -> str:
    """Return from when on the deposit can no longer arrive, even if the clocks differ."""
    return moment(deposit.valid_before_s + CLOCKS_DIFFER_S)


async def has_arrived(deposit: Deposit, chain: ChainReader) -> bool:
    """Say whether the chain used the deposit's nonce, at the confirmation depth; ChainError."""
    kind = OPEN_KIND if deposit.action == "open" else TOP_UP_KIND
    nonce = authorization_nonce(kind, deposit.signer, deposit.node, deposit.salt)
    return await chain.authorization_used(deposit.payer, nonce)


@dataclass(frozen=True, slots=True)
class PendingDeposit:
    """A signed deposit, and the channel's limit before it."""

    deposit: Deposit
    before_units: Units

    async def is_confirmed(self, channel: BuyerChannel, chain: ChainReader | None) -> bool:
        """Say whether the deposit arrived.

        If a chain is read, the deposit's nonce must be used there. If not, the channel's limit must
        have risen by its amount. That is only the node's word, and the limit before it may be too.
        Raises ChainError.
        """
        if chain is None:
            return channel.limit_units >= self.before_units + self.deposit.amount_units
        return await has_arrived(self.deposit, chain)

    def after(self, error: VizError, deployment: Deployment) -> VizError:
        """Return an error that came after the signature, with what the signature still does."""
        deposit = self.deposit
        told = type(error)(
            f"{error.detail}. The deposit of {amount(deposit.amount_units, deployment)} from "
            f"{deposit.payer} is signed, and the node can send it until {_end(deposit)}: "
            "`viz channel open` for the same amount sends the same signature again, and it counts "
            "once; another deposit at this node is refused until then",
            **{**error.extensions, SIGNED_DEPOSIT: str(deposit.amount_units)},
        )
        told.answered = error.answered
        return told

    def forget(self, ledger: BuyerLedger, chain: ChainReader | None) -> None:
        """Let another deposit be signed, now that this one is confirmed.

        If that is only the node's word, it is kept aside until it can no longer arrive. Raises
        StoreError.
        """
        if chain is not None:
            ledger.drop_deposit()
        else:
            ledger.set_deposit_aside(self.deposit.salt.hex()[:16], self.deposit.valid_before_s)

    @classmethod
    async def kept(
        cls,
        ledger: BuyerLedger,
        payer: Address,
        amount_units: Units,
        deployment: Deployment,
        *,
        now_s: int,
        chain: ChainReader | None,
    ) -> Self | None:
        """Return the deposit that was signed before, while it may still arrive; forget an old one.

        A node that says "it failed" may keep a deposit and relay it beside a new one. So this
        raises InvalidRequest for a different deposit while the earlier one may still arrive. Raises
        BooksMismatch if the earlier one cannot be read.
        """
        ledger.drop_deposits_aside(now_s - CLOCKS_DIFFER_S)
        found = ledger.kept_deposit()
        if found is None:
            return None
        reader = Reader(found, "the deposit under way")
        pending = cls(
            Deposit.from_json(found.get("deposit"), "the deposit under way"), reader.units("before")
        )
        deposit = pending.deposit
        if deposit.valid_before_s + CLOCKS_DIFFER_S < now_s:
            ledger.drop_deposit()
            return None
        if (deposit.payer, deposit.amount_units) == (payer, amount_units):
            return pending
        if await pending.is_confirmed(ledger.channel, chain):
            pending.forget(ledger, chain)
            return None
        raise InvalidRequest(
            f"a deposit of {amount(deposit.amount_units, deployment)} from {deposit.payer} is "
            f"signed and may still arrive until {_end(deposit)}: ask for the same again, or wait "
            "until then. Nothing was signed, so that no two of them can arrive"
        )

    @classmethod
    async def sign(
        cls,
        ledger: BuyerLedger,
        payer: Wallet,
        amount_units: Units,
        info: NodeInfo,
        deployment: Deployment,
        *,
        now_s: int,
    ) -> Self:
        """Sign a new deposit and return it; it is on disk before it can be sent."""
        deposit = await _signed_deposit(
            payer,
            ledger.session_key,
            amount_units,
            info,
            deployment,
            opened=ledger.channel.payer != ZERO_ADDRESS,
            now_s=now_s,
        )
        channel, standing = ledger.channel, ledger.standing
        pending = cls(deposit, channel.limit_units)
        # An earlier deposit may be larger than what the node says of it, so take the larger limit.
        known_units = (
            max(channel.limit_units, standing.limit_units)
            if channel.deposit_units
            else channel.limit_units
        )
        ledger.commit_standing(standing.signed_deposit(payer.address, known_units + amount_units))
        ledger.keep_deposit({"deposit": deposit.to_json(), "before": str(pending.before_units)})
        return pending


async def _signed_deposit(
    wallet: Wallet,
    session_key: bytes,
    amount_units: Units,
    info: NodeInfo,
    deployment: Deployment,
    *,
    opened: bool,
    now_s: int,
) -> Deposit:
    """Sign a deposit (EIP-3009, relayed by the node) that opens the channel, or tops it up."""
    payer, signer = wallet.address, public_address(session_key)
    salt, valid_before_s = Hash32(secrets.token_bytes(32)), now_s + AUTHORIZATION_VALID_S
    nonce = authorization_nonce(TOP_UP_KIND if opened else OPEN_KIND, signer, info.node, salt)
    transfer = ReceiveWithAuthorization(
        payer, deployment.settlement, amount_units, 0, valid_before_s, nonce
    )
    token = Domain(info.token_name, info.token_version, deployment.chain_id, deployment.token)
    here = settlement_domain(deployment.chain_id, deployment.settlement)
    consent = here.digest(OpenChannel(payer, info.node))
    return Deposit(
        action="topUp" if opened else "open",
        chain_id=deployment.chain_id,
        contract=deployment.settlement,
        payer=payer,
        signer=signer,
        node=info.node,
        amount_units=amount_units,
        salt=salt,
        valid_after_s=0,
        valid_before_s=valid_before_s,
        authorization=await wallet.sign(token, transfer),
        signer_signature=b"" if opened else sign(session_key, consent),
    )


async def signed_close(
    wallet: Wallet, session_key: bytes, info: NodeInfo, deployment: Deployment, *, now_s: int
) -> tuple[RequestClose, bytes]:
    """Return the payer's signed RequestClose, which anyone may relay to Settlement."""
    request = RequestClose(public_address(session_key), info.node, now_s + CLOSE_VALID_S)
    here = settlement_domain(deployment.chain_id, deployment.settlement)
    return request, await wallet.sign(here, request)
