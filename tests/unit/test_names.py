"""Each class, Protocol and type alias of the package has a name that no other has."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "node" / "viz"


def _type_names(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in module.body:
        targets = node.targets if isinstance(node, ast.Assign) else ()
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        # An alias of a type is written as a class is; a constant has no small letter.
        yield from (name for name in names if name.lstrip("_")[:1].isupper() != name.isupper())


def test_no_type_name_is_defined_twice() -> None:
    """Whoever searches for a name finds one definition, and a docstring names one thing."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _type_names(ast.parse(path.read_text(encoding="utf-8"))):
            places[name.lstrip("_")].append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
