"""Classify why an endpoint refused: rate limit, range limit, not supported, or the call itself.

JSON-RPC leaves codes and messages to each provider, so both are examined. Pure: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

_REVERTED: Final = 3
_METHOD_UNKNOWN: Final = -32601
_METHOD_NOT_SUPPORTED: Final = -32004
_LIMIT_EXCEEDED: Final = -32005
_RATE_CODES: Final = frozenset({429, -32007, -32016, -32029, -32090, -32097})
_MOST_CHARS: Final = 1_000

_TOO_OFTEN: Final = re.compile(
    r"rate.?limit|too many (request|call|concurrent)|request rate|throttl|quota|\b429\b"
    r"|per (sec|min|hour|day|month)|compute units|\b(rps|qps)\b"
)
_PERHAPS_TOO_OFTEN: Final = re.compile(
    r"too (often|fast|frequent|quick|many)|slow down|back ?off|try again|retry|later|credit"
    r"|capacity|busy|overload|temporar|(limit|cap|count)s? (was |is |has been )?(reached|exceeded)"
    r"|(reached|hit|over|exceed\w*)\b.{0,40}\b(limit|cap|plan|tier|allowance)"
)
_TOO_MUCH: Final = re.compile(
    r"\brange|block span|more than \d|results?\b|response (size|is too|too)|too (large|wide|big)"
    r"|too many (blocks|logs|results|topics)|(max|maximum|up to|limit\w*)\b.{0,24}\bblocks?\b"
    r"|\bblocks?\b.{0,16}\b(limit|max|exceed)|\blogs\b.{0,16}\b(limit|max|exceed|match)"
    r"|limit(ed)? (to|of|is) \d|10,?000|timed? ?out|timeout|narrow|shorter|reduce"
)
_NOT_SUPPORTED: Final = re.compile(
    r"method\b.{0,40}\b(not (found|supported|available|exist|allowed|whitelisted)|does not exist)"
    r"|unsupported method|unknown method|not implemented"
)
_NO_HISTORY: Final = re.compile(
    r"missing (historical|trie|state)|historical|pruned|archive|state .{0,20}not available"
)
# Messages about a transaction that can never be accepted as it is.
_OF_THE_CALL: Final = re.compile(
    r"insufficient ?(funds|balance)|exceeds (account )?balance|underpriced|nonce|gas|\bfees?\b"
    r"|already (known|imp)|intrinsic|invalid (sender|signature|transaction|opcode)"
    r"|oversized|stack (under|over)flow|sender"
)
# Of a call that needs more gas than one transaction may have.
_TOO_BIG: Final = re.compile(
    r"gas required exceeds|out of gas|intrinsic gas|\bgas limit\b.{0,20}\b(high|exceed)"
    r"|exceeds .{0,20}\bgas (limit|allowance|cap)"
)
# Of a refused transaction: the account has no coin for it; its fee is too low.
_NO_FUNDS: Final = re.compile(
    r"insufficient ?(?:funds|(?:sender |account )?balance)|(?:lack of|enough) funds?\b"
    r"|exceeds .{0,20}\bbalance\b"
)
_UNDERPRICED: Final = r"under ?priced"
_FEE: Final = r"\b(?:base|gas|max|priority|tip)*fees?(?:cap|pergas)?\b"
_CHEAP: Final = re.compile(rf"{_UNDERPRICED}|{_FEE}|gas ?price|replac")
# It was not accepted. After any other message it may have arrived.
_NOT_TAKEN: Final = re.compile(
    rf"{_UNDERPRICED}|{_FEE}|\bgas(?:limit|price)?\b|\breplacement\b|\binvalid sender"
    r"|\boversized\b|\b(?:tx|transaction|data|initcode|code|input) size\b"
)
# Whatever else is said: it may have arrived.
_PERHAPS_TAKEN: Final = re.compile(r"timed? ?out|timeout|\b(?:submitted|may have)\b")
# What is no word of a message, although it may hold "fee": links, addresses, hashes and numbers.
_DATA: Final = re.compile(r"\w+://\S+|\b0x[0-9a-f]+|\b(?=[a-f]*\d)[0-9a-f]+\b", re.IGNORECASE)
# Where one word of a name ends, as in FeeTooLow and tx_gas_limit.
_JOINT: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|_")


class Refusal(Enum):
    """What an endpoint's error object means for the next request."""

    REVERTED = auto()
    TOO_OFTEN = auto()
    TOO_MUCH = auto()
    NOT_SUPPORTED = auto()
    NO_HISTORY = auto()
    OF_THE_CALL = auto()
    TOO_BIG = auto()
    UNCLEAR = auto()


def refusal_of(error: Any, *, executes: bool = False, transacts: bool = False) -> Refusal:
    """Classify an ``error`` member.

    ``executes``: the request was a call or an estimate, which may revert. ``transacts``: the
    request was a transaction or a call, so the error may be the transaction's own fault.
    """
    # The order decides: a message often matches several patterns, and the clearest come first.
    code, text = code_of(error), words_of(error).lower()
    if executes and (code == _REVERTED or "revert" in text or _says_reverted(error)):
        return Refusal.REVERTED
    if code in _RATE_CODES:
        return Refusal.TOO_OFTEN
    sends = transacts and not executes
    of_the_call = _OF_THE_CALL.search(text) or (sends and not_taken(words_of(error)))
    if transacts and of_the_call and not _TOO_OFTEN.search(text):
        too_big = executes and _TOO_BIG.search(text) and not _NO_FUNDS.search(text)
        return Refusal.TOO_BIG if too_big else Refusal.OF_THE_CALL
    if code in (_METHOD_UNKNOWN, _METHOD_NOT_SUPPORTED) or _NOT_SUPPORTED.search(text):
        return Refusal.NOT_SUPPORTED
    if _NO_HISTORY.search(text):
        return Refusal.NO_HISTORY
    if _TOO_OFTEN.search(text):
        return Refusal.TOO_OFTEN
    if _TOO_MUCH.search(text):
        return Refusal.TOO_MUCH
    if code == _LIMIT_EXCEEDED or _PERHAPS_TOO_OFTEN.search(text):
        return Refusal.TOO_OFTEN
    return Refusal.UNCLEAR


def lacks_funds(refusal: str) -> bool:
    """Return whether the account cannot pay for a transaction; ``refusal`` is the error."""
    said = _said(refusal)
    return not _is_of_nonce(said) and _NO_FUNDS.search(said) is not None


def not_taken(refusal: str) -> bool:
    """Return whether an endpoint surely did not accept a transaction."""
    said = _said(refusal)
    if _is_of_nonce(said) or _PERHAPS_TAKEN.search(said):
        return False
    return bool(_NO_FUNDS.search(said) or _NOT_TAKEN.search(said))


def too_cheap(refusal: str) -> bool:
    """Return whether a transaction was refused that a higher fee may help."""
    said = _said(refusal)
    return not (_is_of_nonce(said) or lacks_funds(refusal)) and _CHEAP.search(said) is not None


def for_good(refusal: str) -> bool:
    """Return whether a transaction stays refused at any fee, even once its nonce is the next."""
    return not too_cheap(refusal) and "nonce" not in _said(refusal)


def _said(refusal: str) -> str:
    """Return the endpoint's own words in an error, in lower case, without the endpoint's URL."""
    said = _DATA.sub(" ", refusal.rpartition("eth_sendRawTransaction: ")[2])
    return _JOINT.sub(" ", said).lower()


def _is_of_nonce(said: str) -> bool:
    """Return whether the nonce is refused, which this very transaction may have used.

    Words beside it may be advice, or a host's name. A replacement's refusal names its nonce too.
    """
    return "nonce" in said and re.search(_UNDERPRICED, said) is None


def _says_reverted(error: Any) -> bool:
    data = error.get("data") if isinstance(error, Mapping) else None
    return isinstance(data, str) and data[:_MOST_CHARS].lower().startswith("revert")


def code_of(error: Any) -> int | None:
    """Return the code of an error object; None if it has none."""
    code = error.get("code") if isinstance(error, Mapping) else None
    if isinstance(code, str) and re.fullmatch(r"-?\d{1,9}", code):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def words_of(error: Any) -> str:
    """Return the message of an error, shortened; accepts any JSON."""
    message = error.get("message") if isinstance(error, Mapping) else error
    if not isinstance(message, str):
        message = "it gave no reason"
    return message[:_MOST_CHARS]


def revert_data_of(error: Any) -> bytes:
    """Return a revert's data from any of the places that endpoints use; empty if there is none."""
    data = error.get("data") if isinstance(error, Mapping) else None
    for name in ("data", "result", "output"):
        if isinstance(data, Mapping):
            data = data.get(name, data)
    if not isinstance(data, str):
        return b""
    digits = data[data.find("0x") + 2 :] if "0x" in data else ""
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""
