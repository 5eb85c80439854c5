"""Model a channel as its node sees it, as pure functions (state, change) -> state.

Owns what the node was promised and has delivered on one channel, and the checks of a voucher.
``viz.domain.reservations`` has the changes for deliveries, ``viz.domain.buyer_channel`` the buyer's
side. Times and the confirmed chain state are arguments. The caller commits the returned state
before it acts on it.

Invariants, each tested by ``tests/properties/domain/test_channel.py``:
 C1  An adapter's accepted amount never falls, except by a final voucher (``viz.domain.closing``),
     which still covers all that was spent.
 C2  spent + reserved exceeds accepted, summed over the channel, by at most the credit window.
 C3  No promise ends above the confirmed settled total + deposit.
 C4  The frozen rows and the best voucher form one run: each base is the end of the one before, and
     the first base is the confirmed settled total.
 C5  The node can claim what it accepts: every row of this run is good if claimed in order.
 C6  The claimed amounts of each adapter are those of the buyer's vector at the settled total.
 C7  The best voucher on a base never loses a line, and no line falls, except by a final voucher.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from viz.domain.claim_rows import SignedVoucher
from viz.domain.display import moment
from viz.domain.eip712 import Domain, address_bytes, recover_bytes
from viz.domain.ports.chain import ChannelState
from viz.domain.trust import PAYER_LEAVES
from viz.domain.units import ZERO_ADDRESS, ZERO_HASH, AdapterId, Address, Hash32, Units
from viz.domain.usage import Lines, check_lines, spelled_lines
from viz.errors import (
    BooksMismatch,
    ChannelClosing,
    ChannelUnknown,
    DepositExceeded,
    InvalidRequest,
    InvalidSignature,
    LineBelowBest,
    PaymentRequired,
    StaleVoucher,
    UnknownAdapter,
    WrongDomain,
)

Vector = Mapping[AdapterId, Units]

# How many receipts a voucher's receipts head may be behind the latest receipt. The head of the last
# voucher is always accepted again, at any age, so that a buyer that verifies nothing can pay.
HEADS_KEPT: Final = 4096
# Each line of a voucher costs gas in the claim, so a buyer may pay ahead for few adapters only.
MAX_UNSPENT_LINES: Final = 16


@dataclass(frozen=True, slots=True)
class NodeChannel:
    """A node's state of one channel; everything except ``reserved`` must survive a restart."""

    signer: Address
    node: Address
    # the chain, at the confirmation depth
    payer: Address = ZERO_ADDRESS
    deposit_units: Units = 0
    settled_units: Units = 0
    close_at_s: int = 0
    # what was promised
    base_units: Units = 0
    base_vector: Vector = field(default_factory=dict)
    best: SignedVoucher | None = None
    frozen: tuple[SignedVoucher, ...] = ()
    # what was delivered
    spent: Vector = field(default_factory=dict)
    reserved: Vector = field(default_factory=dict)
    seq: int = 0
    heads: tuple[Hash32, ...] = (ZERO_HASH,)
    # set by a cooperative close: nothing is sold before this chain time
    no_sale_until_s: int = 0

    @property
    def head(self) -> Hash32:
        """The head of the receipts chain."""
        return self.heads[-1]

    @property
    def best_lines(self) -> Lines:
        """The lines of the best voucher on the base; empty without one."""
        return self.best.lines if self.best else ()

    @property
    def end_units(self) -> Units:
        """The settled total after everything promised is claimed."""
        return self.best.end_units if self.best else self.base_units

    @property
    def limit_units(self) -> Units:
        """The highest end point that the confirmed deposit covers."""
        return self.settled_units + self.deposit_units

    @property
    def total_spent_units(self) -> Units:
        """All that was delivered on this channel, for all adapters."""
        return sum(self.spent.values())

    def accepted_units(self, adapter_id: AdapterId) -> Units:
        """All that was ever promised for the adapter on this channel."""
        line = next((units for key, units in self.best_lines if key == adapter_id), 0)
        return self.base_vector.get(adapter_id, 0) + line

    def committed_units(self, adapter_id: AdapterId) -> Units:
        """What was delivered for the adapter, plus what is reserved for running requests."""
        return self.spent.get(adapter_id, 0) + self.reserved.get(adapter_id, 0)

    def available_units(self, adapter_id: AdapterId) -> Units:
        """What may still be delivered on the promises for this adapter (negative on credit)."""
        return self.accepted_units(adapter_id) - self.committed_units(adapter_id)

    def credit_used_units(self) -> Units:
        """How far deliveries and reservations exceed promises, summed over the channel."""
        keys = self.spent.keys() | self.reserved.keys()
        return sum(max(0, -self.available_units(key)) for key in keys)


@dataclass(frozen=True, slots=True)
class PresentedVoucher:
    """A received voucher, with the chain, contract, signer and node that its sender names."""

    chain_id: int
    contract: Address
    signer: Address
    node: Address
    row: SignedVoucher


# the chain


def observe(channel: NodeChannel, seen: ChannelState) -> NodeChannel:
    """Return the channel after a confirmed reading of the chain.

    Frozen rows up to the settled total are removed. Raises BooksMismatch if the total fell, or no
    row of this ledger ends at it: the ledger does not belong to this channel.
    """
    channel = replace(
        channel, payer=seen.payer, deposit_units=seen.deposit_units, close_at_s=seen.close_at
    )
    if seen.settled_units == channel.settled_units:
        return channel
    if _is_blank(channel):
        # An empty ledger starts at the chain's settled total; older unclaimed vouchers are lost.
        return replace(channel, settled_units=seen.settled_units, base_units=seen.settled_units)
    return confirmed_claim(channel, seen.settled_units, seen.deposit_units)


def confirmed_claim(
    channel: NodeChannel, settled_units: Units, deposit_units: Units
) -> NodeChannel:
    """Return the channel without its frozen rows up to ``settled_units``, a confirmed total.

    Raises BooksMismatch if no row ends there.
    """
    ends = [row.end_units for row in channel.frozen]
    if settled_units not in ends:
        raise BooksMismatch(
            f"the chain settled {settled_units} units on the channel of {channel.signer}: no claim "
            f"of the ledger, which is at {channel.settled_units}, ends there. {PAYER_LEAVES}"
        )
    claimed = ends.index(settled_units) + 1
    return replace(
        channel,
        settled_units=settled_units,
        deposit_units=deposit_units,
        frozen=channel.frozen[claimed:],
    )


def _is_blank(channel: NodeChannel) -> bool:
    return not (channel.settled_units or channel.frozen or channel.best or channel.spent)


# vouchers: one small check each, in the order of CHECKS


def require_signed_for(
    domain: Domain, node: Address, *, chain_id: int, contract: Address, named_node: Address
) -> None:
    """Raise WrongDomain if a message names another chain, contract or node than this one."""
    named, here = (chain_id, contract, named_node), (domain.chain_id, domain.contract, node)
    for name, theirs, ours in zip(("chain id", "contract", "node"), named, here, strict=True):
        if theirs != ours:
            raise WrongDomain(f"signed for {name} {theirs}; here it is {ours}")


def check_domain(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> None:
    """Raise WrongDomain if the voucher is for another chain, contract, node or signer."""
    require_signed_for(
        domain,
        channel.node,
        chain_id=presented.chain_id,
        contract=presented.contract,
        named_node=presented.node,
    )
    if presented.signer != channel.signer:
        raise WrongDomain(
            f"signed by {presented.signer}; this channel's signer is {channel.signer}"
        )


def check_voucher_lines(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> None:
    """Raise InvalidRequest if the lines are not ascending, too many or have a zero amount."""
    check_lines(presented.row.lines)


def check_signer(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> None:
    """Raise InvalidSignature if the channel's signer did not sign the voucher."""
    digest = domain.digest(presented.row.voucher(channel.node))
    if recover_bytes(digest, presented.row.signature) != address_bytes(channel.signer):
        raise InvalidSignature("the voucher is not signed by the channel's signer")


def check_open(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> None:
    """Raise ChannelUnknown if the channel is not open on the confirmed chain."""
    if channel.payer == ZERO_ADDRESS:
        raise ChannelUnknown("the channel is not open, or its opening is not confirmed yet")


def check_base(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> None:
    """Raise StaleVoucher if the voucher is on another base, such as one before a claim."""
    if presented.row.base_units != channel.base_units:
        raise StaleVoucher(
            f"sign on base {channel.base_units}; the voucher is on {presented.row.base_units}",
            base=str(channel.base_units),
            best=spelled_lines(channel.best_lines),
        )


def check_not_below_best(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> None:
    """Raise LineBelowBest if the voucher promises an adapter less than the best one does."""
    offered = dict(presented.row.lines)
    for adapter_id, units in channel.best_lines:
        if offered.get(adapter_id, 0) < units:
            raise LineBelowBest(
                f"adapter {adapter_id} was promised {units} units on this base before",
                base=str(channel.base_units),
                best=spelled_lines(channel.best_lines),
            )


def check_head(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> None:
    """Raise StaleVoucher if the receipts head is unknown or older than the last voucher's."""
    if presented.row.receipts_head not in channel.heads:
        raise StaleVoucher(
            "the voucher names a receipts head that is before the last voucher's, or unknown",
            base=str(channel.base_units),
            best=spelled_lines(channel.best_lines),
        )


def check_deposit(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> None:
    """Raise DepositExceeded if the voucher ends above the confirmed deposit."""
    if presented.row.end_units > channel.limit_units:
        raise DepositExceeded(
            f"the voucher ends at {presented.row.end_units} units; the confirmed deposit covers "
            f"{channel.limit_units}: top up, or wait for the top-up to confirm",
            limit=str(channel.limit_units),
        )


VoucherCheck = Callable[[NodeChannel, Domain, PresentedVoucher], None]

CHECKS: Final[tuple[VoucherCheck, ...]] = (
    check_domain,
    check_voucher_lines,
    check_signer,
    check_open,
    check_base,
    check_not_below_best,
    check_head,
    check_deposit,
)


def accept_voucher(
    channel: NodeChannel,
    domain: Domain,
    presented: PresentedVoucher,
    *,
    known_adapters: Container[AdapterId],
    now_s: int,
) -> NodeChannel:
    """Return the channel with the voucher as its best; ``domain`` is Settlement's.

    ``known_adapters`` are the ids that are registered and confirmed, and that the node sells (0
    included). Other adapters are accepted only if something was promised or spent for them here
    before: one unregistered adapter would make the whole row worthless on chain, and every line
    costs the node gas. ``now_s`` is chain time. The same voucher again changes nothing. Raises
    WrongDomain, InvalidRequest, InvalidSignature, ChannelUnknown, StaleVoucher, LineBelowBest,
    DepositExceeded, UnknownAdapter, ChannelClosing, PaymentRequired.
    """
    for check in CHECKS:
        check(channel, domain, presented)
    for adapter_id, _ in presented.row.lines:
        had = channel.accepted_units(adapter_id) or adapter_id in channel.spent
        if not had and adapter_id not in known_adapters:
            raise UnknownAdapter(f"the voucher pays adapter {adapter_id}, which is not sold here")
    require_few_ahead(channel, presented)
    require_selling(channel, now_s)
    row, best = presented.row, channel.best
    if best and best.lines == row.lines and best.receipts_head == row.receipts_head:
        return channel
    after = replace(channel, best=row, heads=heads_from(channel.heads, row.receipts_head))
    for adapter_id, spent in channel.spent.items():
        if after.accepted_units(adapter_id) < spent:
            raise PaymentRequired(
                f"the voucher does not cover the {spent} units delivered for adapter {adapter_id}",
                adapterId=adapter_id,
                required=str(spent),
            )
    return after


def require_few_ahead(channel: NodeChannel, presented: PresentedVoucher) -> None:
    """Raise InvalidRequest if a voucher pays too many adapters that have not delivered yet."""
    ahead = [key for key, _ in presented.row.lines if not channel.spent.get(key)]
    if len(ahead) > MAX_UNSPENT_LINES:
        raise InvalidRequest(
            f"the voucher pays {len(ahead)} adapters that nothing was delivered for; at most "
            f"{MAX_UNSPENT_LINES} are taken"
        )


def is_covered(channel: NodeChannel, presented: PresentedVoucher) -> bool:
    """Return whether the best voucher, on the same base, pays at least what this one pays."""
    best = dict(channel.best_lines)
    return presented.row.base_units == channel.base_units and all(
        units <= best.get(adapter_id, 0) for adapter_id, units in presented.row.lines
    )


def require_selling(channel: NodeChannel, now_s: int) -> None:
    """Raise ChannelClosing if a close is requested, or a signed Close could still be used."""
    if channel.close_at_s:
        raise ChannelClosing(
            "the payer requested the close of the channel on chain: the rest can be withdrawn from "
            f"{moment(channel.close_at_s)} on, and the channel can be opened again then",
            closeAt=channel.close_at_s,
        )
    # "<=", because Settlement accepts a Close at its deadline, and the next block may have the same
    # second as the last.
    if channel.no_sale_until_s and now_s <= channel.no_sale_until_s:
        raise ChannelClosing(
            "the channel was closed by agreement, and that signature could close a new opening "
            f"until {moment(channel.no_sale_until_s)}. Deposit and ask again after that by the "
            f"chain's time, which is {moment(now_s)} and moves with each block: a local chain that "
            "nobody uses makes one when evm_mine is called at its RPC",
            until=channel.no_sale_until_s,
        )


def past_close(channel: NodeChannel, now_s: int) -> NodeChannel:
    """Return the channel without the deadline of a signed Close, once that has passed."""
    if channel.no_sale_until_s and now_s > channel.no_sale_until_s:
        return replace(channel, no_sale_until_s=0)
    return channel


def heads_from(heads: tuple[Hash32, ...], named: Hash32) -> tuple[Hash32, ...]:
    """Return the heads from ``named`` on: older ones may no longer be signed."""
    return heads[heads.index(named) :]


# claims and closing


def freeze_for_claim(channel: NodeChannel) -> tuple[NodeChannel, SignedVoucher | None]:
    """Return the channel with its base at the best voucher's end, and that voucher as a claim row.

    From then on only vouchers on the new base are accepted. The row is None if there is no voucher.
    """
    if channel.best is None:
        return channel, None
    vector = dict(channel.base_vector)
    for adapter_id, units in channel.best.lines:
        vector[adapter_id] = vector.get(adapter_id, 0) + units
    moved = replace(
        channel,
        base_units=channel.best.end_units,
        base_vector=vector,
        best=None,
        frozen=(*channel.frozen, channel.best),
    )
    return moved, channel.best


def begin_close(channel: NodeChannel, until_s: int) -> NodeChannel:
    """Return the channel without sales until ``until_s``, the Close's deadline (chain time).

    The node then claims, and signs Close with the settled total after that claim.
    """
    return replace(channel, no_sale_until_s=max(channel.no_sale_until_s, until_s))
