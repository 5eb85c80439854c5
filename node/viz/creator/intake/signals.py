"""Read the machine-readable reservations of rights that sources carry.

Owns the schemes: TDMRep (W3C, 2024), AI Preferences (``Content-Usage``, IETF drafts), ``noai`` of
robots meta tags, RSL in a page or in metadata, C2PA and CAWG training-and-mining assertions, and a
PDF's permissions. ``rights`` decides what follows from them. Pure.
"""

from __future__ import annotations

import base64
import contextlib
import re
import unicodedata
import zlib
from collections.abc import Iterator, Set
from dataclasses import replace
from typing import Any, Final

from viz.creator.intake.found import OptOut, Says
from viz.creator.intake.rsl_rules import (
    RSL_TYPE,
    embedded_statements,
    inline_statements,
    named_elsewhere,
)

_TRAINING: Final = frozenset(
    {"train-ai", "ai-train", "ai-training", "training", "train", "ai-all", "all", "ai", "genai"}
    | {"train-genai", "gen-ai", "train-gen-ai"}
)
# Where a page names its RSL license, which a reader of the page alone does not have.
LINK_ELEMENT: Final = "link element"
_USAGE: Final = re.compile(r"""([a-z][\w-]*)\s*[=:]\s*["']?([^\s,;&"']+)""", re.IGNORECASE)
# `robots` speaks to all programs, and `googlebot` and such to one: no program asks for us by name.
_CRAWLER: Final = re.compile(r"robot|bots?$|crawler|spider")
_NO_AI: Final = re.compile(r"\bno[-_]?(?:ai|train(?:ing)?)\b", re.IGNORECASE)
_NO_AI_NAME: Final = re.compile(r"(?:no|do-?not)-?(?:ai|(?:ai-?)?train(?:ing)?)")
# A name alone is set: ``noai:``.
_NOT_SET: Final = frozenset({"0", "false", "no", "n", "off", "null", "none", "~"})
_SET: Final = frozenset({"1", "true", "yes", "y", "on", "?1", "allow", "allowed", "permitted"})
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_BLANKS: Final = re.compile(r"[\s_.-]+")
# Values that programs write: preferences, and tags, perhaps for one crawler.
_PREFERENCES: Final = re.compile(r"(?:[\w-]+\s*[:=]\s*[\w?\"'-]+\s*(?:[,;&]\s*|$))+")
_TAG: Final = r"(?:(?:no|max-|un)[a-z-]+(?::[^\s,;]+)?|index|follow|all)"
_TAGS: Final = re.compile(rf"(?:[\w-]{{1,40}}:\s*)?{_TAG}(?:[\s,;]+{_TAG})*", re.IGNORECASE)
# What a prefix stands for, in XML (``xmlns``) and in the ``prefix`` of an EPUB or an RDFa page.
_TDM_NAMESPACE: Final = re.compile(r"https?://www\.w3\.org/ns/tdmrep[/#]?", re.IGNORECASE)
_XMLNS: Final = re.compile(
    rb"""xmlns(?::([\w.-]{1,40}))?\s*=\s*["']\s*https?://www\.w3\.org/ns/tdmrep[/#]?\s*["']""",
    re.IGNORECASE,
)
_PREFIXES: Final = re.compile(r"([^\s:]+):\s+(\S+)")
_RESERVATION: Final = "reservation"
# Values of ``tdm`` that permit; whatever else stands there was written to reserve.
_MINED: Final = frozenset({"0", "allow", "allowed", "permitted"})
_TDM: Final = frozenset({f"tdm-{_RESERVATION}", f"tdm:{_RESERVATION}"})
# The names of a value like ``train-ai=n``: of the IETF's drafts, and of those before them.
_USAGE_NAMES: Final = frozenset(
    {"content-usage", "content-signal", "content-signals", "aipref", "ai-preferences"}
    | {"cc-signal", "cc-signals"}
)
# Names that have such a value, or one that is about something else.
_PERHAPS_USAGE: Final = frozenset({"cc", "creative-commons"})
# Names that say by themselves what the value is about.
_TRAINING_NAME: Final = re.compile(
    r"(?:allow-)?(?:train(?:ing)?[-:]?(?:gen-?)?ai|(?:gen-?)?ai[-:]?train(?:ing)?)"
)
# The names in one word: who writes ``TDMReservation`` or ``tdm.reservation`` means these.
_WHOLE: Final = {
    each.replace("-", ""): each for each in (f"tdm-{_RESERVATION}", *sorted(_USAGE_NAMES))
}
# The dictionary of a PDF's metadata stream, and the stream, which is often compressed.
_PDF_METADATA: Final = re.compile(rb"<<([^<>]{0,400}/Type\s*/Metadata[^<>]{0,400})>>\s*stream\r?\n")
_METADATA_BYTES: Final = 1 << 20
_PREFIXES_READ: Final = 16
_ASSERTION: Final = re.compile(rb"(?:c2pa|cawg)\.training-mining")
_ASSERTION_BYTES: Final = 4096
_MANIFEST: Final = b"c2pa"
_C2PA_TYPE: Final = "application/c2pa"
_C2PA_LINK: Final = "c2pa-manifest"
# A manifest in plain text: each of its bytes is one of the 256 variation selectors.
_WRAPPED: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{16,}")


def usage_signals(value: str, scheme: str, where: str) -> list[OptOut]:
    """Return the statements about training in a ``Content-Usage`` or ``Content-Signal`` value."""
    pairs = _USAGE.findall(value)
    found = [
        OptOut(scheme, *_answer(said, f"{name}={said}", where))
        for name, said in pairs
        if plain_name(name) in _TRAINING
    ]
    return found if pairs else [OptOut(scheme, *_answer(value, value, where))]


def _answer(said: str, told: str, where: str) -> tuple[Says, str, str]:
    """Return what a yes or no means; anything else was written to reserve."""
    answer = said.strip().lower()
    if answer in _SET:
        return "allowed", where, told[:80]
    unknown = "" if answer in _NOT_SET else " (a value that is not known reserves)"
    return "reserved", where, f"{told[:80]}{unknown}".strip()


def _tdm_names(root: Any) -> set[str]:
    """Return the names, in lower case, that the property ``reservation`` has in a document.

    A document may give TDMRep's namespace another prefix than ``tdm``, or write it out.
    """
    names = set(_TDM)
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue
        for name, space in _PREFIXES.findall(element.get("prefix") or ""):
            if _TDM_NAMESPACE.fullmatch(space):
                names.add(f"{name}:{_RESERVATION}".lower())
        for name, space in element.nsmap.items():
            if name and space and _TDM_NAMESPACE.fullmatch(space):
                names.add(f"{name}:{_RESERVATION}".lower())
        # HTML's parser keeps these as plain attributes.
        for name, space in element.attrib.items():
            if name.lower().startswith("xmlns:") and _TDM_NAMESPACE.fullmatch(space.strip()):
                names.add(f"{name[6:]}:{_RESERVATION}".lower())
    return names


def _reserves(key: str, names: Set[str]) -> bool:
    """Return whether a property, one or several in lower case, is TDMRep's ``reservation``."""
    return any(
        each in names
        or (each.endswith(_RESERVATION) and _TDM_NAMESPACE.fullmatch(each[: -len(_RESERVATION)]))
        for each in key.split()
    )


def named_statements(key: str, value: str, where: str, tdm: Set[str] = _TDM) -> list[OptOut]:
    """Return what a name with a value says: of a meta element, of front matter, of a header.

    ``tdm`` are the names of TDMRep's ``reservation`` there, in lower case. Of a name that is about
    training alone, a value that nobody knows reserves, and so does none.
    """
    plain, value = plain_name(key), as_seen(value)
    if _reserves(key.lower(), tdm) or plain in _TDM:
        return tdm_statements(value, where)
    if plain == "tdm":
        permits = value.strip().lower() in _MINED
        told = f"{plain}: {value[:80]}".strip()
        return [OptOut("TDMRep", "allowed" if permits else "reserved", where, told)]
    if plain in _USAGE_NAMES or (plain in _PERHAPS_USAGE and _USAGE.search(value)):
        return usage_signals(value, "AI Preferences", where)
    if _TRAINING_NAME.fullmatch(plain):
        return [OptOut("AI Preferences", *_answer(value, f"{plain}: {value}", where))]
    if _CRAWLER.search(plain) and _NO_AI.search(value):
        return [OptOut("robots tag", "reserved", where, value[:80])]
    if _NO_AI_NAME.fullmatch(plain) and value.lower() not in _NOT_SET:
        told = f"{plain}: {value}" if value else plain
        return [OptOut("robots tag", "reserved", where, told[:80])]
    return []


def plain_name(written: str) -> str:
    """Return a name in lower case with hyphens, however it is written.

    ``tdm_reservation``, ``tdmReservation``, ``TDM Reservation`` and ``tdm.reservation`` are one.
    """
    plain = _BLANKS.sub("-", _HUMP.sub("-", as_seen(written).strip())).lower()
    # An escape may write half of a surrogate pair, which no file can hold.
    plain = plain.encode("utf-8", "replace").decode()
    return _WHOLE.get(plain.replace("-", ""), plain)


def as_seen(text: str) -> str:
    """Return a text in NFKC without marks that nobody sees: ``ｎoai`` is ``noai``."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    return "".join(each for each in plain if unicodedata.category(each) != "Cf")


def is_answer(value: str) -> bool:
    """Return whether a value says yes or no."""
    return value.lower() in _SET | _NOT_SET


def is_preferences(value: str) -> bool:
    """Return whether a value is nothing but preferences: ``search=y, train-ai=n``."""
    return bool(_PREFERENCES.fullmatch(value))


def is_tags(value: str) -> bool:
    """Return whether a value is nothing but a robots meta element's tags: ``noindex, noai``."""
    return bool(_TAGS.fullmatch(value))


def is_usage(key: str) -> bool:
    """Return whether the value of this name is a list of preferences: ``train-ai=n``."""
    return key in _USAGE_NAMES or key in _PERHAPS_USAGE


def is_rule(key: str) -> bool:
    """Return whether something of this ``plain_name`` can only be about training.

    A crawler's name can be a speaker's too.
    """
    named = key == "tdm" or key in _USAGE_NAMES or _reserves(key, _TDM)
    return named or bool(_NO_AI_NAME.fullmatch(key) or _TRAINING_NAME.fullmatch(key))


def says_no_ai(text: str) -> bool:
    """Return whether a text has the word with which robots tags reserve training."""
    return bool(_NO_AI.search(text))


def html_signals(root: Any) -> list[OptOut]:
    """Return the statements in a page's meta elements; ``root`` is its tree."""
    found: list[OptOut] = []
    tdm = _tdm_names(root)
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue
        # HTML's parser keeps a prefix: what ``x:meta`` says counts, whatever ``x`` stands for.
        name = element.tag.rpartition("}")[2].rpartition(":")[2].lower()
        kind = (element.get("type") or "").strip().lower()
        if name == "script" and kind == RSL_TYPE:
            found += inline_statements(_content(element), "script element")
        if name == "link" and kind == RSL_TYPE:
            found.append(named_elsewhere(element.get("href") or "", LINK_ELEMENT))
        if name == "script" and kind == _C2PA_TYPE:
            found += _base64_manifest(_content(element))
        if name == "link" and _C2PA_LINK in (element.get("rel") or "").lower().split():
            said = f"its manifest {(element.get('href') or '')[:120]} is not read here"
            found.append(OptOut("C2PA", "reserved", "link to a manifest", said))
        if name != "meta":
            continue
        named = element.get("name") or element.get("property") or element.get("http-equiv") or ""
        value = (element.get("content") or element.text or "").strip()
        found += named_statements(named, value, "meta element", tdm)
    return found


def side_manifest_signals(raw: bytes, name: str) -> list[OptOut]:
    """Return the statements of a C2PA manifest that is a file of its own, beside its work."""
    if _MANIFEST not in raw:
        return [OptOut("C2PA", "reserved", name, "its manifest cannot be read")]
    return [replace(each, where=name) for each in _manifest_signals(raw)]


def _content(element: Any) -> bytes:
    """Return what stands in an element, which has text in HTML, and elements in XHTML."""
    from lxml import etree

    inner = [etree.tostring(child, encoding="utf-8", with_tail=False) for child in element]
    return b"".join(inner) or (element.text or "").encode()


def epub_signals(package: Any) -> list[OptOut]:
    """Return the statements in an EPUB's package document: TDMRep's properties, and RSL."""
    found: list[OptOut] = []
    tdm = _tdm_names(package)
    for meta in _named(package, "meta"):
        key = meta.get("property") or meta.get("name") or ""
        told = (meta.text or meta.get("content") or "").strip()
        found += named_statements(key, told, "the book's metadata", tdm)
    from lxml import etree

    whole = etree.tostring(package)
    for match in _xmp_reservation(whole).finditer(whole):
        found += tdm_statements(match[1].decode(), "the book's metadata")
    return found + embedded_statements(whole, "the book's metadata")


def embedded_signals(raw: bytes) -> list[OptOut]:
    """Return the statements embedded in a file of any kind, uncompressed or in a PDF's metadata.

    These are XMP with TDMRep or RSL, and C2PA or CAWG training-and-mining assertions. Their
    signatures are not checked: a reservation counts whoever wrote it.
    """
    found: list[OptOut] = []
    for part in (each for packed in (raw, *_packed_metadata(raw)) for each in _also_wide(packed)):
        is_xmp = b"<x:xmpmeta" in part or b"<?xpacket" in part
        for match in _xmp_reservation(part).finditer(part):
            found += tdm_statements(match[1].decode(), "XMP metadata")
        found += embedded_statements(part, "XMP metadata" if is_xmp else "inside the file")
    return list(dict.fromkeys(found + _manifest_signals(raw)))


def wrapped_signals(raw: bytes) -> list[OptOut]:
    """Return the statements of C2PA manifests that stand unseen in a plain text of UTF-8."""
    found: list[OptOut] = []
    for run in _WRAPPED.findall(raw.decode("utf-8", "ignore")):
        places = (ord(letter) for letter in run)
        data = bytes(each - 0xFE00 if each < 0xFE10 else each - 0xE0100 + 16 for each in places)
        found += _manifest_signals(data)
    return list(dict.fromkeys(found))


def _base64_manifest(content: bytes) -> list[OptOut]:
    try:
        return _manifest_signals(base64.b64decode(b"".join(content.split()), validate=True))
    except ValueError:
        return [OptOut("C2PA", "reserved", "script element", "its manifest cannot be read")]


def _manifest_signals(raw: bytes) -> list[OptOut]:
    """Return the training-and-mining assertions in bytes that hold a C2PA manifest."""
    found: list[OptOut] = []
    for match in _ASSERTION.finditer(raw):
        after = raw[match.end() : match.end() + _ASSERTION_BYTES]
        barred = b"notAllowed" in after or b"constrained" in after
        says: Says = "reserved" if barred or b"allowed" not in after else "allowed"
        name = match[0].decode()
        found.append(OptOut("C2PA" if name.startswith("c2pa") else "CAWG", says, "manifest", name))
    return found


def _xmp_reservation(part: bytes) -> re.Pattern[bytes]:
    """Return the pattern of TDMRep's reservation, with the prefixes that the bytes declare."""
    found = {match[1] or b"" for match in _XMLNS.finditer(part)}
    named = sorted(found - {b"", b"tdm"})[:_PREFIXES_READ]
    either = b"|".join(re.escape(each) for each in (b"tdm", *named))
    before = rb"(?<![\w.:/-])(?:" + either + rb"):"
    if b"" in found:
        before = rb"(?:" + before + rb"|<)"
    # An attribute, or an element, which may have attributes of its own; not an element's end.
    return re.compile(
        before + rb"reservation(?:\s*=\s*[\"']\s*|(?:\s[^<>]{0,400})?>\s*)([\w.-]{1,20})"
    )


def _also_wide(raw: bytes) -> Iterator[bytes]:
    """Yield the bytes, and without their zeros if TDMRep's or RSL's name is there in UTF-16."""
    yield raw
    if any(word.encode("utf-16-le")[:-1] in raw for word in (_RESERVATION, "rslstandard")):
        yield raw.replace(b"\0", b"")


def _packed_metadata(raw: bytes) -> Iterator[bytes]:
    """Yield the metadata streams of a PDF that are compressed, so far as they can be unpacked."""
    for match in _PDF_METADATA.finditer(raw):
        if b"FlateDecode" in match[1]:
            packed = raw[match.end() : match.end() + _METADATA_BYTES]
            with contextlib.suppress(zlib.error):
                yield zlib.decompressobj().decompress(packed, _METADATA_BYTES)


def tdm_statements(value: str, where: str) -> list[OptOut]:
    """Return what a value of ``tdm-reservation`` says: 0 permits, any other and none reserve."""
    told = value.strip()
    says: Says = "allowed" if told == "0" else "reserved"
    return [OptOut("TDMRep", says, where, f"tdm-reservation: {told[:20]}".strip())]


def _named(root: Any, name: str) -> list[Any]:
    return [
        each
        for each in root.iter()
        if isinstance(each.tag, str) and each.tag.rpartition("}")[2].lower() == name
    ]
