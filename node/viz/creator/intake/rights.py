"""Decide whether a source's reservations of rights stop its import, and sign that one holds them.

Owns the rule: the most restrictive statement wins. If training is reserved or needs a license, the
import stops, and continues only if the registrant signs that the rights are theirs. The statement
is plain text, signed by EIP-191 (``personal_sign``), so that the person sees exactly what is
signed. A signature proves who said it, not that it is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from viz.creator.intake.found import OptOut
from viz.domain.eip712 import keccak, public_address, recover, sign
from viz.domain.units import Hash32, parse_address
from viz.errors import InvalidRequest, InvalidSignature, RightsReserved


def in_force(found: Sequence[OptOut]) -> list[OptOut]:
    """Return the statements that forbid training, without repetitions; one is enough."""
    return list(dict.fromkeys(each for each in found if each.says == "reserved"))


def refuse_reserved(barring: Sequence[OptOut]) -> None:
    """Raise RightsReserved if any statement forbids training."""
    if not barring:
        return
    first, more = barring[0], len(barring) - 1
    others = f" and {more} more" if more else ""
    raise RightsReserved(
        f"training is reserved by {first.scheme} ({first.where}: {first.value or first.says})"
        f"{others}. If the rights are yours, sign that: --rights-are-mine KEYFILE. If they are "
        f"not, "
        "leave this source out"
    )


def statement_of(title: str, sha256: str, barring: Sequence[OptOut], now_s: int) -> str:
    """Return the text that the registrant signs."""
    day = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d")
    # One line for each: a source must not add lines to what somebody signs.
    listed = "\n".join(
        " ".join(f"- {each.scheme}, {each.where}: {each.value or each.says}".split())
        for each in barring
    )
    return (
        f"I hold the rights in the work {title!r}, whose file has the SHA-256 {sha256}, or act for "
        "those who hold them, and may license it for training.\n"
        f"Its sources reserve training:\n{listed}\n"
        f"These reservations are mine or were made for me. Signed on {day}."
    )


def signed_statement(statement: str, key: bytes) -> dict[str, str]:
    """Return the statement with its signature, as an import's record keeps it."""
    return {
        "statement": statement,
        "signer": public_address(key),
        "signature": "0x" + sign(key, _digest(statement)).hex(),
    }


def signer_of(signed: Mapping[str, Any], sha256: str) -> str:
    """Return who signed the statement in a record. Raises InvalidRequest if it is invalid.

    It must be about the file with that hash.
    """
    try:
        statement = str(signed["statement"])
        signature = bytes.fromhex(str(signed["signature"]).removeprefix("0x"))
        signer = parse_address(str(signed["signer"]))
        found = recover(_digest(statement), signature)
    except (KeyError, ValueError, InvalidSignature) as error:
        raise InvalidRequest(f"the signed statement of rights is damaged: {error}") from error
    if found != signer:
        raise InvalidRequest(
            "the statement of rights was changed after it was signed: sign it again"
        )
    if sha256 not in statement:
        raise InvalidRequest(
            "the statement of rights is for another text than this one: import the work again"
        )
    return signer


def _digest(statement: str) -> Hash32:
    data = statement.encode()
    return keccak(b"\x19Ethereum Signed Message:\n" + str(len(data)).encode() + data)
