"""A command that prints how many there are of something says one of it right, too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import viz.cli

_COUNTED = re.compile(
    r" (?:more )?(?:adapters|blobs|blocks|bytes|chunks|channels|characters|days|decimals|facts"
    r"|files|grants|listings|nodes|notes|notices|pages|questions|receipts|rows|steps|tokens|words"
    r"|works)\b(?! on\b)"
)


def _uncounted(text: str) -> list[str]:
    """Return the f-strings with a value before a plural that `counted` did not make."""
    found = []
    for each in ast.walk(ast.parse(text)):
        if not isinstance(each, ast.JoinedStr):
            continue
        for value, after in zip(each.values, each.values[1:], strict=False):
            if (
                isinstance(value, ast.FormattedValue)
                and isinstance(after, ast.Constant)
                and _COUNTED.match(str(after.value))
                # A constant in capitals is a bound, which is never one.
                and not ast.unparse(value.value).lstrip("_").isupper()
                and not ast.unparse(value.value).startswith("'")
            ):
                found.append(ast.unparse(each))
    return found


def test_every_count_is_spelled_by_one_helper() -> None:
    """Protects against "1 chunks": only `viz.domain.display.counted` spells a number of things."""
    assert _uncounted('f"{n} chunks"') and not _uncounted("f\"{counted(n, 'chunk')}\"")
    assert viz.cli.__file__ is not None
    modules = sorted(Path(viz.cli.__file__).parent.rglob("*.py"))
    assert (
        modules
        and {module.name: found for module in modules if (found := _uncounted(module.read_text()))}
        == {}
    )
