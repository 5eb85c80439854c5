"""What a transaction may cost: the operator's bound on fees, and the fee of a replacement.

Owns the rule of fees and the re-signing of a transaction that no block takes at its old fee. Does
not know nonces, journals or why a call is made. Invariants: no transaction is signed that pays
more for a unit of gas than the bound, ``URGENT_TIMES`` the bound where the sender says that it is
urgent; a replacement differs from what it replaces in its fees alone, so a chain executes one of
the two.
"""

from __future__ import annotations

from typing import Any, Final

from eth_account.signers.local import LocalAccount
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from viz.chain.rpc import Fees
from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.units import BPS, Address, Hash32
from viz.errors import FeeTooHigh

URGENT_TIMES: Final = 4
# Nodes take a replacement from 10 % above what it replaces, in both of its fees.
_BUMP_BPS: Final = 11_250


def bounded(asked: Fees, limit_wei: int | None, *, urgent: bool = False) -> Fees:
    """Return the fees to sign now; raise FeeTooHigh where the chain's present price is above.

    ``limit_wei`` is the most that is paid for a unit of gas, in wei; None for no bound. An urgent
    transaction may pay ``URGENT_TIMES`` as much.
    """
    if limit_wei is None:
        return asked
    limit_wei *= URGENT_TIMES if urgent else 1
    price_wei = asked.base_fee_wei + asked.priority_fee_wei
    if price_wei > limit_wei:
        raise FeeTooHigh(
            f"a unit of gas costs {price_wei} wei now, and this node pays {limit_wei} at most: try "
            "again later (its operator sets chain.max_fee_wei)"
        )
    return Fees(asked.base_fee_wei, min(asked.max_fee_wei, limit_wei), asked.priority_fee_wei)


def max_fee_of(raw: bytes) -> int:
    """Return the most that a signed transaction pays for a unit of gas, in wei."""
    return int(_fields(raw)["maxFeePerGas"])


def replacement(
    entry: SignedTransaction,
    account: LocalAccount,
    asked: Fees,
    limit_wei: int | None,
    *,
    urgent: bool = False,
) -> SignedTransaction | None:
    """Return the transaction signed anew at a fee that a node takes in its place.

    None where the bound does not leave room for one; raises FeeTooHigh as ``bounded``.
    """
    fields = _fields(entry.raw)
    tip = max(asked.priority_fee_wei, _bumped(fields["maxPriorityFeePerGas"]))
    most = max(asked.max_fee_wei, _bumped(fields["maxFeePerGas"]), asked.base_fee_wei + tip)
    fees = bounded(Fees(asked.base_fee_wei, most, tip), limit_wei, urgent=urgent)
    if fees.max_fee_wei < _bumped(fields["maxFeePerGas"]):
        return None
    return sign(
        account,
        fields | {"maxFeePerGas": fees.max_fee_wei, "maxPriorityFeePerGas": tip},
        entry.description,
    )


def sign(account: LocalAccount, fields: dict[str, Any], description: str) -> SignedTransaction:
    """Return the transaction of these fields, signed and named by its hash."""
    raw = bytes(account.sign_transaction(fields).raw_transaction)
    return SignedTransaction(
        Hash32(keccak(raw)), Address(account.address), fields["nonce"], raw, description
    )


def _fields(raw: bytes) -> dict[str, Any]:
    """Return what was signed, without the signature; for transactions of type 2."""
    found = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    fields = {key: value for key, value in found.items() if key not in ("v", "r", "s")}
    if not fields["to"]:
        del fields["to"]
    return fields


def _bumped(fee_wei: int) -> int:
    return -(-int(fee_wei) * _BUMP_BPS // BPS)
