"""Keep a transaction's fees below the operator's bound, and sign a replacement at a higher fee.

Owns the fee rules and the signing of a transaction again that no block includes at its old fee.
Invariants: no transaction is signed that pays more per unit of gas than the bound, or more than
``URGENT_TIMES`` the bound if the sender says that it is urgent; a replacement differs from the
replaced transaction in its fees only, so a chain executes at most one of the two.
"""

from __future__ import annotations

from dataclasses import replace
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
# Ethereum nodes accept a replacement only if both of its fees are at least 10 % higher.
_BUMP_BPS: Final = 11_250


def bounded(asked: Fees, limit_wei: int | None, *, urgent: bool = False) -> Fees:
    """Return the fees to sign now; raise FeeTooHigh if the chain's price is above the bound.

    ``limit_wei`` is the bound in wei per unit of gas; None for no bound. An urgent transaction may
    pay ``URGENT_TIMES`` as much.
    """
    if limit_wei is None:
        return asked
    limit_wei *= URGENT_TIMES if urgent else 1
    price_wei = asked.base_fee_wei + asked.priority_fee_wei
    if price_wei > limit_wei:
        raise FeeTooHigh(
            f"a unit of gas costs {price_wei} wei now, and this node pays at most {limit_wei}: try "
            "again later (the operator's bound is chain.max_fee_wei)"
        )
    return replace(asked, max_fee_wei=min(asked.max_fee_wei, limit_wei))


def max_fee_of(raw: bytes) -> int:
    """Return the most that a signed transaction pays, in wei per unit of gas."""
    return int(_fields(raw)["maxFeePerGas"])


def chain_of(raw: bytes) -> int:
    """Return the id of the chain that a signed transaction is for."""
    return int(_fields(raw)["chainId"])


def replacement(
    entry: SignedTransaction,
    account: LocalAccount,
    asked: Fees,
    limit_wei: int | None,
    *,
    urgent: bool = False,
) -> SignedTransaction | None:
    """Sign the transaction again, at fees high enough that nodes accept it as a replacement.

    Returns None if the bound is too low for that; raises FeeTooHigh as ``bounded`` does.
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
    """Sign a transaction with these fields, and return it with its hash."""
    raw = bytes(account.sign_transaction(fields).raw_transaction)
    return SignedTransaction(
        Hash32(keccak(raw)), Address(account.address), fields["nonce"], raw, description
    )


def _fields(raw: bytes) -> dict[str, Any]:
    """Return the fields of a signed transaction of type 2, without the signature."""
    found = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    fields = {key: value for key, value in found.items() if key not in ("v", "r", "s")}
    if not fields["to"]:
        del fields["to"]
    return fields


def _bumped(fee_wei: int) -> int:
    return -(-int(fee_wei) * _BUMP_BPS // BPS)
