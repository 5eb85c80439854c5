"""Where docs/protocol.md names the members of each message, and what the messages' members are.

``SECTIONS`` has a row for every message that strangers send or read. A member counts as named in a
section if its wire name stands there in code: in a code span, in a fence, or in an indented block.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import TypeAdapter

import viz.protocol
from viz.domain.eip712 import Struct
from viz.protocol.wire_model import WireModel

EXCHANGE: Final = "17"
OFFERS: Final = "What the node says of itself"
_CODE: Final = re.compile(r"```.*?```|`[^`]+`|^    .*$", re.DOTALL | re.MULTILINE)
# The section, or the part of one, of each message that is no signed structure (section 14).
SECTIONS: Final[Mapping[str, str]] = {
    "AccessToken": "3",
    "AccountView": "15",
    "ActionAnswer": "3",
    "AdapterOffer": OFFERS,
    "Certificates": "3",
    "ChannelLine": "5",
    "ChannelView": "5",
    "CloseAnswer": "10",
    "CloseRequest": "5",
    "CustodianAddress": "15",
    "CustodyAnswer": "3",
    "Deposit": "5",
    "DestructionCertificate": "15",
    "HandOver": "15",
    "HandedKeyView": "15",
    "HandedKeys": "15",
    "HeldItem": "15",
    "KeyChallenge": "15",
    "LeftItem": "15",
    "ListingAnswer": "3",
    "MarketModel": "15",
    "MarketOffer": "15",
    "MarketPage": "15",
    "MarketWork": "15",
    "NeedVoucher": "6",
    "NodeInfo": OFFERS,
    "NoticePage": "15",
    "NoticeSummary": "15",
    "NoticeView": "15",
    "OfferedWork": OFFERS,
    "OwnedWorks": "15",
    "PeriodsPage": "9",
    "PublishedRule": "15",
    "RegistrationAnswer": "3",
    "RegistrationContext": "15",
    "ReportCard": OFFERS,
    "SealedBlob": "15",
    "ServedBase": OFFERS,
    "SessionProof": "3",
    "SignedApproval": "3",
    "SignedEndCustody": "3",
    "SignedKeyRequest": "3",
    "SignedNotice": "3",
    "SignedPeriod": "9",
    "SignedQuote": "4",
    "SignedRegistration": "3",
    "SignedTerms": "3",
    "SignedVoucher": "5",
    "SignedWithdrawal": "3",
    "Terms": "15",
    "WorkListing": "15",
    "WrappedKey": "3",
}
# Not JSON between strangers: a header with parameters, and what only the operator reads.
ELSEWHERE: Final = frozenset({"Challenge", "OperatorsNotice"})


def sections(page: str) -> dict[str, str]:
    """Return the page's sections by their numbers, and the part of one that has a row above."""
    parts = re.split(r"^## (\d+)\. ", page, flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    inside = re.split(r"^### (.+)$", page, flags=re.MULTILINE)
    found[OFFERS] = re.split(r"^## ", inside[inside.index(OFFERS) + 1], flags=re.MULTILINE)[0]
    return found


def in_code(section: str) -> set[str]:
    """Return every word that stands in code in a section."""
    return {word for code in _CODE.findall(section) for word in re.findall(r"\w+", code)}


def messages() -> dict[type[Any], set[str]]:
    """Return the wire names of the members of every message, and of what the messages hold."""
    for module in pkgutil.walk_packages(viz.protocol.__path__, "viz.protocol."):
        importlib.import_module(module.name)
    found: dict[type[Any], set[str]] = {}
    # A slotted dataclass is made twice; only the second class has the fields.
    for kind in WireModel.__subclasses__():
        if "__dataclass_fields__" in vars(kind) and kind.__name__ not in ELSEWHERE:
            found |= dict(_records(TypeAdapter(kind).core_schema))
    return found


def section_of(kind: type[Any]) -> str:
    """Return the section, or the part of one, that must name the members of a message."""
    if issubclass(kind, Struct):
        return "14"
    name = kind.__name__
    assert name in SECTIONS, f"name the members of {name} in docs/protocol.md, and add its section"
    return SECTIONS[name]


def _records(schema: Any) -> Iterator[tuple[type[Any], set[str]]]:
    """Give each class in a compiled form, with its members as JSON names them."""
    if isinstance(schema, Mapping):
        if schema.get("type") == "dataclass":
            inner = schema["schema"]
            while inner["type"] != "dataclass-args":
                inner = inner["schema"]
            yield (
                schema["cls"],
                {each.get("validation_alias", each["name"]) for each in inner["fields"]},
            )
        for value in schema.values():
            yield from _records(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _records(value)
