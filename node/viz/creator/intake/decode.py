"""Decode the bytes of a text, in the encoding that they declare or show; never guess silently.

Owns how encodings are recognised. If a text has no mark and is neither UTF-8 nor UTF-16, the error
gives the best guess with a sample, and the creator names the encoding. For a file that mixes
encodings, the error gives the lines; two names (``utf-8+windows-1252``) read each line by the first
that fits.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from viz.domain.display import counted
from viz.errors import InvalidWork

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED: Final = re.compile(
    rb"""<\?xml[^>]{0,200}encoding\s*=\s*["']([\w.:-]{1,40})"""
    rb"""|<meta[^>]{0,200}charset\s*=\s*["']?([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_CONTROLS: Final = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b")
# Codecs from bytes to text that no file is written in.
_NO_ENCODINGS: Final = frozenset(
    {"unicode-escape", "unicode_escape", "raw-unicode-escape", "raw_unicode_escape", "idna",
     "punycode", "undefined"}
)  # fmt: skip
_LOOKED_AT: Final = 4096
_GUESSED_FROM: Final = 64 * 1024
_MOST_LINES: Final = 5
_SAMPLE: Final = 40


def decoded(raw: bytes, named: str = "", *, declares: bool = False) -> tuple[str, str]:
    """Return the text of ``raw`` and the encoding that was used.

    ``named`` is the creator's choice; ``declares``: the format may name its encoding inside (HTML,
    XML). Raises InvalidWork, which says what to do.
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _strictly(raw[len(mark) :], encoding), encoding
    if named:
        return _by_name(raw, named)
    if unmarked := _unmarked_utf16(raw):
        return _strictly(raw, unmarked), unmarked
    try:
        text = raw.decode("utf-8")
        _refuse_other_script(raw)
        return text, "utf-8"
    except UnicodeDecodeError:
        pass
    if declares and (found := _DECLARED.search(raw[:_LOOKED_AT])):
        declared = (found[1] or found[2]).decode("ascii")
        if _known(declared) and not declared.lower().startswith("utf"):
            return _strictly(raw, declared), declared.lower()
    raise InvalidWork(_what_to_do(raw))


def _by_name(raw: bytes, named: str) -> tuple[str, str]:
    first, _, second = named.partition("+")
    for each in filter(None, (first, second)):
        if not _known(each):
            raise InvalidWork(
                f"{each!r} is not a known encoding: use for instance utf-8, utf-16, "
                "windows-1252, iso-8859-1, shift_jis or gb18030"
            )
    if not second:
        return _strictly(raw, first), first
    lines = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        try:
            lines.append(line.decode(first))
        except UnicodeDecodeError:
            try:
                lines.append(line.decode(second))
            except UnicodeDecodeError as error:
                raise InvalidWork(f"line {number} is neither {first} nor {second}") from error
    return "\n".join(lines), named


def _strictly(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidWork(
            f"byte {error.start} is not {encoding}: the file is damaged or has another encoding; "
            "save it again as UTF-8, or name its encoding with --encoding"
        ) from error


def _known(name: str) -> bool:
    """Return whether Python has an encoding of texts of that name."""
    try:
        if codecs.lookup(name).name in _NO_ENCODINGS:
            return False
        b"text".decode(name)
    except UnicodeError:
        return True
    except (LookupError, ValueError):
        return False
    return True


def _unmarked_utf16(raw: bytes) -> str | None:
    """Return the byte order of UTF-16 without a mark (one byte of most pairs is zero), or None."""
    head = raw[: _LOOKED_AT & ~1]
    if len(head) < 4 or len(raw) % 2 or not head.count(0):
        return None
    pairs = len(head) // 2
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
        # A pair of zeros is no character of a text: it fills the blocks of archives and the like.
        if zeros.count(0) * 10 >= pairs * 6 and "\0" not in head.decode(encoding, "replace"):
            return encoding
    return None


def _refuse_other_script(raw: bytes) -> None:
    """Raise InvalidWork for UTF-16 without a mark that happens to be valid UTF-8.

    A letter of Cyrillic, Greek or Hebrew is there a control character and an ASCII character.
    """
    head = raw[:_LOOKED_AT]
    low = [at for at, byte in enumerate(head) if byte in _CONTROLS]
    if len(low) * 20 < len(head) or not low:
        return
    guess = "utf-16-le" if sum(at % 2 for at in low) * 2 > len(low) else "utf-16-be"
    begins = head[: 2 * _SAMPLE].decode(guess, errors="replace").strip()
    raise InvalidWork(
        f"{len(low)} of its first {len(head)} bytes are control characters: it looks like {guess} "
        f"without a mark. If it begins with {begins!r}, say --encoding {guess}; else save it again "
        "as UTF-8"
    )


def _what_to_do(raw: bytes) -> str:
    wrong, right = [], 0
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            right += 1
        except UnicodeDecodeError:
            wrong.append(number)
    guess, sample = _guess(raw, wrong[0])
    if right:
        spelled = ", ".join(map(str, wrong[:_MOST_LINES]))
        more = f" and {len(wrong) - _MOST_LINES} more" if len(wrong) > _MOST_LINES else ""
        return (
            f"the file mixes encodings: {counted(right, 'line is', 'lines are')} UTF-8, and not "
            f"{'line' if len(wrong) == 1 else 'lines'} {spelled}{more}. "
            f"Save it again as UTF-8, or say --encoding utf-8+{guess} and look at line {wrong[0]}, "
            f"which then reads {sample!r}"
        )
    return (
        f"the file is not UTF-8, and nothing in it names its encoding. It looks like {guess}: if "
        f"line {wrong[0]} reads {sample!r}, say --encoding {guess}; else save it again as UTF-8"
    )


# What people's programs still write; the rest, such as hp_roman8, is nobody's file today.
_WESTERN: Final = ("cp1252", "latin_1", "cp1250", "iso8859_15", "cp437", "mac_roman")
_OTHERS: Final = (
    *("cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874", "cp866"),
    *("koi8_r", "koi8_u", "iso8859_2", "iso8859_5", "iso8859_7", "mac_cyrillic"),
    *("shift_jis", "cp932", "euc_jp", "gb18030", "big5", "euc_kr"),
)


def _guess(raw: bytes, line: int) -> tuple[str, str]:
    """Return the likeliest encoding, and how a line reads in it."""
    from charset_normalizer import from_bytes

    odd = b"\n".join(each for each in raw.split(b"\n") if not each.isascii())[:_GUESSED_FROM]
    single = "windows-1252"
    try:
        odd.decode(single)
        fits = True
    except UnicodeDecodeError:
        fits = False
    best = from_bytes(odd, cp_isolation=[*_WESTERN, *_OTHERS]).best()
    # A short text does not tell Western code pages apart; Windows' has all letters of Latin-1.
    western = best is None or best.encoding in _WESTERN
    guess = single if fits and western else (best.encoding if best is not None else single)
    shown = raw.split(b"\n")[line - 1].decode(guess, errors="replace").strip()
    odd_at = next((at for at, letter in enumerate(shown) if not letter.isascii()), 0)
    start = max(0, odd_at - _SAMPLE // 2)
    return guess, shown[start : start + _SAMPLE]
