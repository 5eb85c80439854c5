"""Read the machine-readable reservations of rights that sources carry.

Owns the schemes: TDMRep (W3C, 2024), AI Preferences (``Content-Usage``, IETF drafts), ``noai`` of
robots meta tags, C2PA and CAWG training-and-mining assertions, and a PDF's permissions. ``rights``
decides what follows from them. Pure.
"""

from __future__ import annotations

import re
from typing import Any, Final

from viz.creator.intake.found import OptOut, Says

_TRAINING: Final = frozenset(
    {"train-ai", "ai-train", "ai-all", "all", "ai", "genai", "train-genai"}
)
_USAGE: Final = re.compile(r"([a-z][a-z-]*)\s*=\s*(\?[01]|[a-z]+)", re.IGNORECASE)
_NO_AI: Final = re.compile(r"\bno(?:ai|-ai|train|-train)\b", re.IGNORECASE)
_TDM_XMP: Final = re.compile(rb"""tdm:reservation\s*(?:=\s*["']\s*|>\s*)([01])""")
_ASSERTION: Final = re.compile(rb"(?:c2pa|cawg)\.training-mining")
_ASSERTION_BYTES: Final = 4096


def usage_signals(value: str, scheme: str, where: str) -> list[OptOut]:
    """Return the statements about training in a ``Content-Usage`` or ``Content-Signal`` value."""
    found = []
    for name, said in _USAGE.findall(value):
        if name.lower() in _TRAINING:
            no = said.lower() in ("n", "no", "?0")
            says: Says = "reserved" if no else "allowed"
            found.append(OptOut(scheme, says, where, f"{name}={said}"))
    return found


def html_signals(root: Any) -> list[OptOut]:
    """Return the statements in a page's meta elements; ``root`` is its tree."""
    found: list[OptOut] = []
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue
        name = element.tag.rpartition("}")[2].lower()
        if name != "meta":
            continue
        key = (
            element.get("name") or element.get("property") or element.get("http-equiv") or ""
        ).lower()
        value = (element.get("content") or element.text or "").strip()
        if key in ("tdm-reservation", "tdm:reservation"):
            found += _tdm(value, "meta element")
        elif key == "content-usage":
            found += usage_signals(value, "AI Preferences", "meta element")
        elif key in ("robots", "robot") and _NO_AI.search(value):
            found.append(OptOut("robots tag", "reserved", "meta element", value[:80]))
    return found


def epub_signals(package: Any) -> list[OptOut]:
    """Return the statements in an EPUB's package document: TDMRep's meta properties."""
    found: list[OptOut] = []
    for meta in _named(package, "meta"):
        key = (meta.get("property") or meta.get("name") or "").lower()
        if key in ("tdm:reservation", "tdm-reservation"):
            found += _tdm((meta.text or meta.get("content") or "").strip(), "the book's metadata")
    return found


def embedded_signals(raw: bytes) -> list[OptOut]:
    """Return the statements embedded uncompressed in a file of any kind.

    These are XMP with TDMRep, and C2PA or CAWG training-and-mining assertions. Their signatures are
    not checked: a reservation counts whoever wrote it.
    """
    found = [
        signal
        for match in _TDM_XMP.finditer(raw)
        for signal in _tdm(match[1].decode(), "XMP metadata")
    ]
    for match in _ASSERTION.finditer(raw):
        after = raw[match.end() : match.end() + _ASSERTION_BYTES]
        barred = b"notAllowed" in after or b"constrained" in after
        says: Says = "reserved" if barred or b"allowed" not in after else "allowed"
        name = match[0].decode()
        found.append(OptOut("C2PA" if name.startswith("c2pa") else "CAWG", says, "manifest", name))
    return list(dict.fromkeys(found))


def _tdm(value: str, where: str, policy: str = "") -> list[OptOut]:
    told = value.strip()
    if told not in ("0", "1"):
        return []
    quoted = f"tdm-reservation: {told}" + (f", policy {policy[:120]}" if policy else "")
    return [OptOut("TDMRep", "reserved" if told == "1" else "allowed", where, quoted)]


def _named(root: Any, name: str) -> list[Any]:
    return [
        each
        for each in root.iter()
        if isinstance(each.tag, str) and each.tag.rpartition("}")[2].lower() == name
    ]
