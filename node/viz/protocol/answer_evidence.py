"""Define the record of one paid answer that anybody can check: request, text, and signed receipt.

The receipt binds the other two by salted hashes. Does no I/O. Who shows a record shows the words of
the request and the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from viz.domain.eip712 import Domain
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.strict_json import load_json
from viz.domain.units import Address
from viz.errors import InvalidRequest, InvalidSignature
from viz.protocol.payment import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    receipt_from_json,
    receipt_to_json,
    unsigned_members,
)
from viz.protocol.wire import Json, Reader

FORMAT: Final = "viz-answer/1"
MAX_EVIDENCE_BYTES: Final = 16 * 1024 * 1024
_WHERE: Final = "the record of the answer"
_FINISHES: Final = ("stop", "length", "")


@dataclass(frozen=True, slots=True)
class AnswerEvidence:
    """A request as it was sent, the text that came back, and the node's receipt for it.

    ``read`` checks every member once: what it returns has a line in its bill, one of the two paths,
    and text that can be tokenised.

    ``body`` is the HTTP body to the byte, ``text`` what the receipt's hash covers. ``finish`` is
    why the answer ended, as the stream said; no signature covers it. ``unknown`` are members of the
    file that this version does not know.
    """

    MEMBERS: ClassVar[frozenset[str]] = frozenset(
        {"format", "node", "chainId", "settlement", "path", "body", "text", "finish", "receipt"}
    )
    node: Address
    chain_id: int
    settlement: Address
    path: str
    body: bytes
    text: str
    finish: str
    receipt: SignedReceipt
    unknown: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """Return the record as JSON values."""
        return {
            "format": FORMAT,
            "node": self.node,
            "chainId": self.chain_id,
            "settlement": self.settlement,
            "path": self.path,
            "body": self.body.decode(),
            "text": self.text,
            "finish": self.finish,
            "receipt": receipt_to_json(self.receipt),
        }

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Return the record in a file's bytes; raise InvalidRequest that says what is wrong."""
        if len(raw) > MAX_EVIDENCE_BYTES:
            raise InvalidRequest(f"the record of an answer has at most {MAX_EVIDENCE_BYTES} bytes")
        try:
            value: Any = load_json(raw)
        except ValueError as error:
            raise InvalidRequest(f"{_WHERE} cannot be read as JSON: {error}") from error
        reader = Reader(value, _WHERE)
        if reader.text("format") != FORMAT:
            raise InvalidRequest(f'the record\'s format is not "{FORMAT}"')
        finish = reader.text("finish")
        if finish not in _FINISHES:
            raise InvalidRequest("'finish' is stop, length, or empty if the answer broke off")
        found: Mapping[str, Any] = value
        receipt = receipt_from_json(found.get("receipt"))
        if not receipt.lines:
            raise InvalidRequest(f"{_WHERE} has a receipt that bills nothing: 'lines' is empty")
        beside = unsigned_members(found["receipt"], receipt)
        path, text = reader.text("path"), reader.text("text", MAX_EVIDENCE_BYTES)
        if path not in (CHAT_PATH, COMPLETIONS_PATH):
            raise InvalidRequest(f"'path' in {_WHERE} is not {CHAT_PATH} or {COMPLETIONS_PATH}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InvalidRequest(f"'text' in {_WHERE} has half a character, which no node sends")
        return cls(
            node=reader.address("node"),
            chain_id=reader.integer("chainId"),
            settlement=reader.address("settlement"),
            path=path,
            body=reader.text("body", MAX_EVIDENCE_BYTES).encode("utf-8", "surrogatepass"),
            text=text,
            finish=finish,
            receipt=receipt,
            unknown=tuple(sorted({*map(str, found.keys() - cls.MEMBERS), *beside})),
        )

    def contradictions(self, domain: Domain) -> list[str]:
        """Return where this record says something else than the node's signed receipt."""
        found = []
        try:
            self.receipt.verify(domain, self.node)
        except InvalidSignature as error:
            found.append(error.detail)
        receipt = self.receipt.receipt
        if salted_hash(self.receipt.request_salt, self.body) != receipt.request_hash:
            found.append("the receipt is for another request than the record's")
        text = self.text.encode("utf-8", "surrogatepass")
        if salted_hash(self.receipt.response_salt, text) != receipt.response_hash:
            found.append("the receipt is for another text than the record's")
        return found
