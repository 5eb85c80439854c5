"""The tables of docs/protocol.md that follow from the code: errors, signed structures, a digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from viz import errors
from viz.domain import typed_data
from viz.domain.eip712 import Domain, Struct, keccak, layout_of, settlement_domain
from viz.domain.units import Hash32, hex_of
from viz.errors import VizError
from viz.protocol.problems import openai_type

VECTORS: Final = Path(__file__).parents[2] / "vectors"
# Who meets an error, and what that client should do.
BUYER: Final = "a buyer or a creator"
OPERATOR: Final = "the operator"
LOCAL: Final = "nobody, over HTTP"
RETRY: Final = "Wait for `Retry-After`, then send the same again."
LATER: Final = "Try again in a minute, or use another node."
OPERATORS: Final = "The operator's to mend."
NOT_SENT: Final = "Raised by Viz's own client."
FAMILY: Final = "A family. Sent where no narrower code fits."

ADVICE: Final[dict[str, tuple[str, str]]] = {
    "viz-error": (LOCAL, "The root of the tree."),
    "config": (OPERATOR, OPERATORS),
    "input": (BUYER, FAMILY + " Correct the request."),
    "invalid-request": (BUYER, "Correct the request. `param` names the parameter at fault."),
    "not-acceptable": (BUYER, "Ask for a form that `detail` names."),
    "range-not-satisfiable": (BUYER, "Begin before the end, which `Content-Range` names."),
    "too-many-questions": (BUYER, RETRY + " `retryAfter` says the seconds."),
    "prompt-empty": (BUYER, "Send some text."),
    "prompt-too-long": (BUYER, "Shorten the prompt, or ask for at most `roomTokens` tokens."),
    "unknown-adapter": (BUYER, "Read `/viz/v1/node` again. In a voucher, leave that line out."),
    "unknown-model": (BUYER, "Read `/v1/models` again."),
    "invalid-work": (BUYER, "Correct the work's file or its terms, then sign again."),
    "invalid-license": (LOCAL, "Correct the field that `detail` names, before you sign."),
    "rights-reserved": (
        LOCAL,
        "Leave that source out, or sign that the rights are yours (`--rights-are-mine`).",
    ),
    "invalid-listing": (BUYER, "Correct the member that `detail` names, then sign again."),
    "listing-stale": (BUYER, "Read the listing kept here. Sign one with a later `issuedAt`."),
    "listing-unknown": (BUYER, "Ask another node, or the work's owner."),
    "provenance-unknown": (
        BUYER,
        "Ask the node of the adapter's trainer, or another that serves it.",
    ),
    "notice-unknown": (OPERATOR, "`viz notice list` has all numbers."),
    "commitment-mismatch": (BUYER, "Use the file and salt that were registered."),
    "invalid-key-file": (LOCAL, "Give the right key file and password."),
    "payment": (BUYER, FAMILY + " Read `detail`."),
    "payment-required": (
        BUYER,
        "Read the challenge. Without `need`, open a channel or top it up. With `need`, sign a "
        "voucher. In answer to a voucher or a close: sign at least `required` for `adapterId`.",
    ),
    "invalid-signature": (BUYER, "Check key, domain and struct. Do not send the same again."),
    "wrong-domain": (BUYER, "Sign for the chain, contract, node and origin that `detail` names."),
    "stale-voucher": (
        BUYER,
        "Sign again on `base`, if it is an end point that you signed, with your latest head.",
    ),
    "line-below-best": (BUYER, "Sign again: every line at least as in `best`, on `base`."),
    "deposit-exceeded": (BUYER, "Top up, or sign for an end of at most `limit`."),
    "balance-too-low": (LOCAL, NOT_SENT + " Add to the wallet, or deposit less."),
    "channel-unknown": (BUYER, "Open the channel, or wait until its opening is confirmed."),
    "channel-closing": (BUYER, "Wait until `closeAt` or `until`. Then open the channel again."),
    "channel-busy": (BUYER, "Close again when the answers under way have ended."),
    "access-token-invalid": (BUYER, "Sign a new session, then send the request again."),
    "quote-expired": (BUYER, "Ask without a quote and read the new one, or read the offer again."),
    "chain": (BUYER, FAMILY + " Try again in a moment."),
    "chain-unreachable": (BUYER, LATER),
    "clock-wrong": (BUYER, LATER),
    "chain-mismatch": (BUYER, "Do not pay. " + OPERATORS),
    "transaction-failed": (
        BUYER,
        "Read the contract's reason in `detail`, `contractError` and `args`. Check balance, nonce "
        "and deadline.",
    ),
    "gas-above-limit": (BUYER, "Send the transaction yourself."),
    "too-much-gas": (BUYER, "Send the transaction yourself, or use another node."),
    "insufficient-funds": (BUYER, "Send the transaction yourself, or use another node."),
    "fee-too-high": (BUYER, "Wait for lower fees, or send the transaction yourself."),
    "outcome-unknown": (
        BUYER,
        "The transaction may still succeed. Read the channel or the chain before you sign another.",
    ),
    "license": (BUYER, FAMILY + " Read `detail`."),
    "license-mismatch": (
        BUYER,
        "Do not rely on the document: `fields` names where it differs from the chain. Ask the "
        "work's owner.",
    ),
    "license-unknown": (BUYER, "Ask the work's owner, or another node."),
    "no-live-grant": (BUYER, "Acquire a grant to each of `contents`."),
    "adapter-not-servable": (BUYER, "Ask another adapter. Nothing was charged."),
    "adapter-ended": (
        BUYER,
        "Ask another adapter: this one does not come back. `contentId`, `reason`, `since` and "
        "`endedAt` say which work ended it, and when. Nothing was charged.",
    ),
    "adapter-suspended": (
        BUYER,
        "Ask another adapter, or another node. `noticeId`, `reason` and `since` say which notice "
        "suspends it here, of which kind, since when. Nothing was charged.",
    ),
    "relay-refused": (BUYER, "Send the transaction yourself, or use another node."),
    "relay-busy": (BUYER, RETRY + " `retryAfter` says the seconds."),
    "storage": (BUYER, FAMILY + " Read the blob elsewhere."),
    "blob-not-found": (BUYER, "Read the blob elsewhere."),
    "blob-not-cached": (BUYER, "Read the blob elsewhere."),
    "blob-denied": (
        BUYER,
        "Nothing brings it back here: a work in it was withdrawn.",
    ),
    "blob-corrupt": (BUYER, "Read the blob elsewhere."),
    "blob-too-large": (BUYER, "Read it in parts, or block by block."),
    "storage-unavailable": (BUYER, LATER),
    "storage-busy": (BUYER, RETRY),
    "storage-full": (BUYER, "Use another node."),
    "seal-broken": (
        BUYER,
        "Seal again, for the key that you give; or ask another custodian.",
    ),
    "key-unknown": (BUYER, "Ask another custodian of the listing, or the work's owner."),
    "custody-full": (BUYER, "Use another custodian. The operator sets the quota."),
    "store": (BUYER, FAMILY + " " + LATER),
    "store-conflict": (
        BUYER,
        "The same `Idempotency-Key` is under way, or its answer is no longer kept: wait, or read "
        "`responseHash`. The same `Payment-Request` was served: read the receipts. Elsewhere: send "
        "again once.",
    ),
    "books-mismatch": (BUYER, "Do not pay on this channel. " + OPERATORS),
    "ledger-missing": (OPERATOR, OPERATORS),
    "store-full": (BUYER, LATER),
    "store-read-only": (BUYER, LATER),
    "store-busy": (BUYER, LATER),
    "store-disk-fails": (BUYER, LATER),
    "store-damaged": (OPERATOR, OPERATORS),
    "engine": (BUYER, "Ask again. What was sent before is billed, and its receipt is listed."),
    "engine-overloaded": (BUYER, RETRY),
    "invalid-adapter-file": (OPERATOR, OPERATORS),
    "model-unavailable": (BUYER, LATER),
    "training": (OPERATOR, OPERATORS),
    "training-cancelled": (OPERATOR, "Start it again if you want it."),
    "adapter-not-taught": (OPERATOR, "Change what the error names, or train longer."),
    "memorisation-limit": (OPERATOR, "Train on less of the work, or for fewer steps."),
    "training-worker-died": (OPERATOR, "Read the log, then start it again: it resumes."),
    "buyer": (LOCAL, NOT_SENT),
    "node-unreachable": (LOCAL, NOT_SENT),
    "address-not-public": (
        BUYER,
        "Name an address of the internet, `http(s)://host[:port]`: a node asks no other.",
    ),
    "node-refused": (LOCAL, NOT_SENT),
    "node-not-trusted": (LOCAL, NOT_SENT + " Pay nothing more."),
    "budget-spent": (LOCAL, NOT_SENT + " Raise the day's bound, or wait until midnight UTC."),
    "price-above-cap": (LOCAL, NOT_SENT + " Name a higher cap, or ask another node."),
    "too-much-left-over": (LOCAL, NOT_SENT + " Ask the adapters that it names, or close."),
}

SIGNERS: Final[dict[str, tuple[str, str, str]]] = {
    "Register": (
        "ContentRegistry",
        "the creator",
        "to register a work; anybody relays it (`POST /viz/v1/contents`)",
    ),
    "SetTerms": ("ContentRegistry", "the work's owner", "to offer other terms to new grants"),
    "Approve": ("ContentRegistry", "the work's owner", "to approve a trainer, or to undo that"),
    "Withdraw": ("ContentRegistry", "the work's owner", "to withdraw a work for ever"),
    "Listing": (
        "ContentRegistry",
        "the work's owner",
        "to publish the work's listing; never sent to the chain",
    ),
    "Custody": (
        "ContentRegistry",
        "the work's owner",
        "to hand a sealed work and its key over to a custodian; never sent to the chain",
    ),
    "EndCustody": (
        "ContentRegistry",
        "the work's owner",
        "to have a custodian destroy the key and the sealed work; never sent to the chain",
    ),
    "Notice": (
        "ContentRegistry",
        "whoever complains",
        "to tell a node's operator that an adapter or a work violates a right; never sent to the "
        "chain",
    ),
    "KeyRequest": (
        "ContentRegistry",
        "whoever asks a custodian for a key",
        "for each key; never sent to the chain",
    ),
    "OpenChannel": (
        "Settlement",
        "the session key",
        "to agree to be the key of this payer's channel to this node",
    ),
    "Voucher": ("Settlement", "the session key", "to owe, before each step"),
    "RequestClose": ("Settlement", "the payer", "to close, together or alone"),
    "Close": ("Settlement", "the node", "in answer to a close, after its last claim"),
    "Session": ("Settlement", "the session key", "to get an access token; never sent to the chain"),
    "Quote": ("Settlement", "the node", "with each 402 to a known signer; never sent to the chain"),
    "Receipt": ("Settlement", "the node", "after each paid answer; never sent to the chain"),
    "Destruction": (
        "Settlement",
        "the node",
        "after it destroyed what it had of a work; never sent to the chain",
    ),
    "ReceiptPeriod": (
        "Settlement",
        "the node",
        "when a period of its receipts has ended; never sent to the chain",
    ),
    "ReceiveWithAuthorization": (
        "the token",
        "the payer (or a trainer, for a fee)",
        "to pay (ERC-3009): `to` is Settlement for a deposit, ContentRegistry for a fee; `nonce` "
        "as in section 5",
    ),
}


def error_classes() -> Iterator[type[VizError]]:
    """Yield every error of ``viz.errors``, in the order of its file."""
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, VizError):
            yield value


def structs() -> Iterator[type[Struct]]:
    """Yield every signed structure, in the order of its file."""
    for value in vars(typed_data).values():
        if (
            isinstance(value, type)
            and issubclass(value, Struct)
            and value.__module__.endswith("typed_data")
        ):
            yield value


def _errors() -> str:
    classes = list(error_classes())
    parts: list[str] = []
    for who in (BUYER, OPERATOR, LOCAL):
        rows = [
            f"| `{kind.code}` | {kind.status} | `{openai_type(kind)}` | {kind.title} "
            f"| {ADVICE[kind.code][1]} |"
            for kind in classes
            # A test says which codes have no row in ADVICE.
            if kind.code in ADVICE and ADVICE[kind.code][0] == who
        ]
        head = (
            "| code | status | `error.type` | title | what a client does |\n|---|---|---|---|---|"
        )
        parts.append(f"Met by {who}:\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _structures() -> str:
    parts: list[str] = []
    for kind in structs():
        name = layout_of(kind).name
        domain, signer, when = SIGNERS[name]
        shown = kind.TYPE.replace(")", ")\n", 1).rstrip()
        type_hash = hex_of(layout_of(kind).type_hash)
        parts.append(
            f"**{name}**. Domain: {domain}. Signed by {signer}, {when}.\n\n"
            f"```text\n{shown}\ntype hash {type_hash}\n```"
        )
    return "\n\n".join(parts)


def _word(value: int) -> str:
    return value.to_bytes(32, "big").hex()


def _address_word(address: str) -> str:
    return bytes(12).hex() + address[2:].lower()


def _digest() -> str:
    vectors: Any = json.loads((VECTORS / "claim.json").read_text())
    row = vectors["rows"][1]
    packed = "".join(
        int(a).to_bytes(4, "big").hex() + int(u).to_bytes(12, "big").hex() for a, u in row["lines"]
    )
    usage = keccak(bytes.fromhex(packed))
    type_hash = keccak(typed_data.Voucher.TYPE.encode())
    words = (
        type_hash.hex(),
        _address_word(vectors["node"]),
        _word(int(row["settled"])),
        usage.hex(),
        row["receiptsHead"][2:],
    )
    struct_hash = keccak(bytes.fromhex("".join(words)))
    domain = settlement_domain(vectors["chainId"], vectors["settlement"])
    domain_words = (
        keccak(Domain.TYPE).hex(),
        keccak(b"Viz Settlement").hex(),
        keccak(b"1").hex(),
        _word(vectors["chainId"]),
        _address_word(vectors["settlement"]),
    )
    separator = keccak(bytes.fromhex("".join(domain_words)))
    digest = keccak(b"\x19\x01" + separator + struct_hash)
    signature = row["signature"][2:]
    head = signature + f"{int(row['settled']):024x}" + row["receiptsHead"][2:]
    claim_row = head + f"{len(row['lines']):02x}" + packed
    proven = (hex_of(usage), hex_of(digest), separator, claim_row in vectors["packed"])
    assert proven == (row["usageHash"], row["digest"], domain.separator, True)
    lines = "\n".join(
        (
            f"lines                 {json.dumps(row['lines'])}",
            *(f"packed line {at + 1}         {packed[32 * at : 32 * at + 32]}" for at in range(3)),
            f"usageHash             {usage.hex()}",
            "",
            f"type hash             {words[0]}",
            f"node                  {words[1]}",
            f"settled               {words[2]}",
            f"usageHash             {words[3]}",
            f"receiptsHead          {words[4]}",
            f"struct hash           {struct_hash.hex()}",
            "",
            f"domain type hash      {domain_words[0]}",
            f"keccak(name)          {domain_words[1]}",
            f"keccak(version)       {domain_words[2]}",
            f"chainId               {domain_words[3]}",
            f"verifyingContract     {domain_words[4]}",
            f"domain separator      {separator.hex()}",
            "",
            f"digest                {digest.hex()}",
            f"signature r           {signature[:64]}",
            f"signature yParityAndS {signature[64:]}",
            "",
            f"claim row             {claim_row[:128]}  signature",
            f"                      {claim_row[128:152]}  settled",
            f"                      {claim_row[152:216]}  receiptsHead",
            f"                      {claim_row[216:218]}  count",
            *(
                f"                      {claim_row[at : at + 32]}  line"
                for at in range(218, len(claim_row), 32)
            ),
        )
    )
    return f"```text\n{lines}\n```"


def _kinds() -> str:
    rows = (
        ("open", typed_data.OPEN_KIND, "Viz.OpenChannel"),
        ("top up", typed_data.TOP_UP_KIND, "Viz.TopUp"),
        ("training fee", typed_data.GRANT_KIND, "Viz.AcquireGrant"),
    )
    lines = [f'| {name} | `keccak256("{text}")` | `{_hex(kind)}` |' for name, kind, text in rows]
    return "| for | kind | value |\n|---|---|---|\n" + "\n".join(lines)


def _hex(value: Hash32) -> str:
    return hex_of(value)


def tables() -> dict[str, str]:
    """Return each part by the name of its markers."""
    return {
        "errors": _errors(),
        "structures": _structures(),
        "kinds": _kinds(),
        "digest": _digest(),
    }
