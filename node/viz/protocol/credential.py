"""Read and write the credentials that a buyer sends in ``Authorization``.

Owns the base64url JSON behind ``Authorization: Payment`` ({"challenge": ..., "payload": {"action":
open | topUp | voucher | close, ...}}) and the form of access tokens. A voucher only raises the
accepted amount; a request for service needs ``Authorization: Bearer`` (threat 5). Signatures are
verified by ``viz.domain.node_channel`` and the contracts, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import COMPACT_SIGNATURE_BYTES
from viz.domain.node_channel import PresentedVoucher
from viz.domain.typed_data import RequestClose
from viz.domain.usage import MAX_LINES
from viz.errors import AccessTokenInvalid, InvalidRequest
from viz.protocol.messages import MAX_TOKEN_CHARS, SignatureHex
from viz.protocol.payment import INTENT, MAX_CREDENTIAL_CHARS, METHOD, VOUCHER_HEADER
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader, from_base64url, to_base64url
from viz.protocol.wire_model import (
    ADDRESS,
    HASH32,
    LINES,
    AddressText,
    Codec,
    Hash32Hex,
    JsonInteger,
    Signed,
    UnitsText,
    WireModel,
    blob,
    decimal,
    record,
    whole,
)

# A usage line has three values, and no credential has 100 values beside its lines.
MAX_VALUES: Final = 3 * MAX_LINES + 100


@dataclass(frozen=True, slots=True)
class Deposit(WireModel):
    """A payer's EIP-3009 deposit for the node to relay: ``open`` or ``topUp`` of a channel."""

    action: Literal["open", "topUp"]
    chain_id: JsonInteger
    contract: AddressText
    payer: AddressText
    signer: AddressText
    node: AddressText
    amount_units: UnitsText
    salt: Hash32Hex
    valid_after_s: JsonInteger
    valid_before_s: JsonInteger
    authorization: SignatureHex
    signer_signature: SignatureHex  # OpenChannel(payer, node) by the signer; empty for topUp


ROW: Final = record(
    SignedVoucher,
    {
        "base_units": ("settled", decimal()),
        "receipts_head": ("receiptsHead", HASH32),
        "lines": ("lines", LINES),
        "signature": ("signature", blob(COMPACT_SIGNATURE_BYTES)),
    },
)

# In JSON a voucher is one flat object: the members of its row, and its chain, contract and parties.
_PRESENTED: Final = Codec[PresentedVoucher](
    Annotated[
        PresentedVoucher,
        record(
            PresentedVoucher,
            {
                "chain_id": ("chainId", whole(JSON_INTEGER_MAX)),
                "contract": ("contract", ADDRESS),
                "signer": ("signer", ADDRESS),
                "node": ("node", ADDRESS),
                "row": ("row", ROW),
            },
        ),
    ]
)


def presented_to_json(presented: PresentedVoucher) -> Json:
    """Return a voucher as its credential's payload: one flat object."""
    members = _PRESENTED.json(presented)
    return {"action": "voucher", **members.pop("row"), **members}


def _read_presented(payload: Mapping[str, object], where: str) -> PresentedVoucher:
    return _PRESENTED.read({**payload, "row": payload}, where)


@dataclass(frozen=True, slots=True)
class CloseRequest(WireModel):
    """The payer's signed RequestClose: the node answers with Close, or anyone relays it.

    ``final`` is the signer's last voucher, for exactly what was billed. It has no lines and no
    signature if nothing was billed beyond its base. If it is None, the node closes at its best
    voucher.
    """

    chain_id: JsonInteger
    contract: AddressText
    request: Annotated[RequestClose, Signed]
    signature: SignatureHex
    final: Annotated[SignedVoucher, ROW] | None = None


Credential = Deposit | PresentedVoucher | CloseRequest
_READERS: Final[Mapping[str, Callable[[Mapping[str, object], str], Credential]]] = {
    "open": Deposit.from_json,
    "topUp": Deposit.from_json,
    "voucher": _read_presented,
    "close": CloseRequest.from_json,
}


def credential_to_header(credential: Credential, challenge_id: str = "") -> str:
    """Return the value of Authorization for a deposit, a voucher or a close.

    ``challenge_id`` echoes the 402 that is answered, where there was one.
    """
    if isinstance(credential, PresentedVoucher):
        payload = presented_to_json(credential)
    elif isinstance(credential, CloseRequest):
        payload = {"action": "close", **credential.to_json()}
    else:
        payload = credential.to_json()
    challenge = {"id": challenge_id, "method": METHOD, "intent": INTENT}
    return f"Payment {to_base64url({'challenge': challenge, 'payload': payload})}"


def credential_from_header(header: str) -> Credential:
    """Return the credential; raise InvalidRequest if it cannot be read. Verifies no signature."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "payment":
        raise InvalidRequest("send the credential as 'Authorization: Payment <base64url>'")
    return _credential_from_text(text.strip())


def voucher_to_text(presented: PresentedVoucher) -> str:
    """Return the value of VOUCHER_HEADER: a voucher that pays for the request itself."""
    return credential_to_header(presented).partition(" ")[2]


def voucher_from_text(text: str) -> PresentedVoucher:
    """Return the voucher in VOUCHER_HEADER, without verifying it; raise InvalidRequest."""
    credential = _credential_from_text(text.strip())
    if not isinstance(credential, PresentedVoucher):
        raise InvalidRequest(f"the credential in {VOUCHER_HEADER} must have the action voucher")
    return credential


def _credential_from_text(text: str) -> Credential:
    members = from_base64url(text, max_chars=MAX_CREDENTIAL_CHARS, max_values=MAX_VALUES)
    whole = Reader(members, "the credential")
    challenge = whole.child("challenge")
    if (challenge.text("method"), challenge.text("intent")) != (METHOD, INTENT):
        raise InvalidRequest(f"the credential must be of method {METHOD}, intent {INTENT}")
    action = whole.child("payload").text("action", 16)
    if action not in _READERS:
        raise InvalidRequest(f"{action!r} is not an action: use {', '.join(_READERS)}")
    return _READERS[action](members["payload"], "the payload")


def bearer_of_header(header: str) -> str:
    """Return the access token in ``Authorization: Bearer <token>``; raise AccessTokenInvalid."""
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not 0 < len(token) <= MAX_TOKEN_CHARS:
        raise AccessTokenInvalid("send the access token as 'Authorization: Bearer <token>'")
    return token
