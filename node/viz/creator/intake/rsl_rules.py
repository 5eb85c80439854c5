"""Read what RSL 1.0 documents say about training: of a site, in a page, or in a file's metadata.

Owns when an RSL license reserves training: whenever somebody must ask, pay, report or be somebody
first. Where the licenses of one asset differ, a prohibition counts, as RSL says: the most
restrictive combination. A document that cannot be read reserves. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from viz.creator.intake.found import OptOut
from viz.creator.intake.site_paths import path_pattern, place_of

RSL_TYPE: Final = "application/rsl+xml"
NAMESPACE: Final = "https://rslstandard.org/rsl"
_TRAINING: Final = frozenset({"all", "ai-all", "ai-train"})
# A document inside another one (an EPUB's package, XMP), whatever prefix it has.
_EMBEDDED: Final = re.compile(rb"<((?:[\w-]+:)?)rsl[\s>].{0,65536}?</\1rsl\s*>", re.S)


@dataclass(slots=True)
class RslRules:
    """RSL documents of a site, and what they say about a page."""

    contents: list[tuple[re.Pattern[str], str, str]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def add(self, address: str, body: bytes | None) -> None:
        """Read one document; None, or one that cannot be read, reserves everything."""
        try:
            self.contents += [
                (path_pattern(url or "/"), reserving, address)
                for url, reserving in _contents(body or b"")
            ]
        except ValueError:
            self.unread.append(address)

    def statements(self, url: str) -> list[OptOut]:
        found = [OptOut("RSL", "reserved", each, "it cannot be read here") for each in self.unread]
        for pattern, reserving, address in self.contents:
            if pattern.match(place_of(url)) or pattern.match(url):
                found.append(_statement(reserving, address))
        return list(dict.fromkeys(found))


def inline_statements(document: bytes, where: str) -> list[OptOut]:
    """Return what a document inside a file says; it is about the file, whatever it is called."""
    try:
        found = [_statement(reserving, where) for _, reserving in _contents(document)]
    except ValueError:
        found = [OptOut("RSL", "reserved", where, "it cannot be read here")]
    return list(dict.fromkeys(found))


def embedded_statements(raw: bytes, where: str) -> list[OptOut]:
    """Return what the RSL documents in the bytes of a file's metadata say."""
    if NAMESPACE.encode() not in raw:
        return []
    documents = []
    for match in _EMBEDDED.finditer(raw):
        document = match[0]
        if NAMESPACE.encode() not in document:
            # The element that declares the prefix stands outside: declare it here.
            prefix = match[1].rstrip(b":")
            name = b"xmlns:" + prefix if prefix else b"xmlns"
            head = b"<" + match[1] + b"rsl"
            document = (
                head + b" " + name + b'="' + NAMESPACE.encode() + b'"' + document[len(head) :]
            )
        documents.append(document)
    return list(dict.fromkeys(s for each in documents for s in inline_statements(each, where)))


def named_elsewhere(address: str, where: str) -> OptOut:
    """Return the statement of a file that names an RSL document which is not read with it."""
    return OptOut("RSL", "reserved", where, f"its license {address[:120]} is not read here")


def _statement(reserving: str, where: str) -> OptOut:
    return OptOut("RSL", "reserved" if reserving else "allowed", where, reserving)


def _contents(body: bytes) -> list[tuple[str, str]]:
    """Return each place of an RSL document with the reason why training is reserved, or ""."""
    root = _xml(body)
    found = []
    for content in _named(root, "content"):
        licenses = _named(content, "license")
        reserving = [_reserves(each) for each in licenses] or ["no license is given"]
        barring = next((each for each in reserving if each.startswith("prohibits")), "")
        # Licenses are offers: one that lets train as it stands is enough, if none prohibits it.
        said = barring or ("" if "" in reserving else reserving[0])
        if content.get("server"):
            said = said or "asks for a license of its server"
        found.append((content.get("url") or "", said))
    if not found:
        raise ValueError("it names no content")
    return found


def _reserves(found: Any) -> str:
    """Return why an RSL license does not permit training as it stands; "" if it does."""
    for each in _named(found, "prohibits"):
        words = set((each.text or "").split())
        if each.get("type") == "usage" and words & _TRAINING:
            return f"prohibits {' '.join(sorted(words & _TRAINING))}"
    usages = [each for each in _named(found, "permits") if each.get("type") == "usage"]
    if usages and not any(set((each.text or "").split()) & _TRAINING for each in usages):
        return "permits other uses only"
    for each in _named(found, "payment"):
        if each.get("type", "free") != "free":
            return f"asks for payment: {each.get('type')}"
    if any(True for _ in _named(found, "reporting")):
        return "asks for reports"
    others = [
        each.get("type", "") for name in ("permits", "prohibits") for each in _named(found, name)
    ]
    if limits := sorted(set(others) - {"usage"}):
        return f"permits certain users or places only ({', '.join(limits)})"
    return ""


def _xml(body: bytes) -> Any:
    """Return the tree of a stranger's XML. Raises ValueError; nothing is looked up or expanded."""
    from lxml import etree

    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise ValueError("a document type is not read")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        return etree.fromstring(body.strip(), parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(str(error)) from error


def _named(root: Any, name: str) -> Sequence[Any]:
    return [
        each
        for each in root.iter()
        if isinstance(each.tag, str) and each.tag.rpartition("}")[2] == name
    ]
