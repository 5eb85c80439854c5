"""What the domain and the services may import: they name it here, and anything else is refused.

The linter holds the order of the layers. It can forbid names only one by one, so that a library
which nobody thought of would be free. And its contract against circles sees no module that imports
the package above it, so circles are looked for here too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import grimp
import pytest

PACKAGE: Final = Path(__file__).parents[2] / "node" / "viz"
VALUES: Final = frozenset({
    "__future__", "base64", "binascii", "bisect", "codecs", "collections", "contextlib",
    "dataclasses", "enum", "fractions", "functools", "hashlib", "hmac", "itertools", "json", "re",
    "typing", "unicodedata", "weakref",
})  # fmt: skip
# Each of the domain's libraries computes a value from values.
DOMAIN: Final = VALUES | {
    "Crypto.Cipher", "coincurve", "eth_utils.crypto", "rfc8785", "sha3", "viz.domain", "viz.errors",
}  # fmt: skip
# Services wait, log and keep files; chain, ledger, engines and storage are behind Protocols. What
# has one implementation is imported directly: functions on bytes and files, a run's values.
SERVICES: Final = VALUES | {
    "asyncio", "datetime", "errno", "pathlib", "secrets", "shutil", "stat", "structlog", "time",
    "uuid", "viz.basemodel.packaged", "viz.basemodel.policy", "viz.basemodel.safetensor_file",
    "viz.basemodel.shape", "viz.basemodel.shape_reader", "viz.basemodel.source", "viz.domain",
    "viz.errors", "viz.given_file", "viz.private", "viz.protocol", "viz.services",
    "viz.storage.base", "viz.storage.cid", "viz.storage.sealing", "viz.training.devices",
    "viz.training.environment", "viz.training.estimate", "viz.training.facts",
    "viz.training.memory", "viz.training.pace", "viz.training.process", "viz.training.run",
}  # fmt: skip
# Modules that alone may import more, and what.
MORE: Final = {
    # A time in words, and the parts of an address: neither reads a clock or opens a connection.
    "domain/display.py": {"datetime"},
    "domain/http_url.py": {"urllib.parse"},
    # The ports name by a path what their implementations read or write.
    "domain/ports/blobs.py": {"pathlib"},
    "domain/ports/custody.py": {"pathlib"},
    "domain/ports/engine.py": {"pathlib"},
    # The type of an opened file.
    "services/custody/custodian.py": {"io"},
    # Whether an address is public, and the parts of one, which connects to nothing.
    "services/market/announcing.py": {"ipaddress", "urllib.parse", "viz.outbound"},
    # The order in which strangers are asked, which must not be foreseen.
    "services/market/remote_nodes.py": {"random", "urllib.parse"},
    # The opening of the SQL ledger.
    "services/payments/new_ledger.py": {"viz.store.ledger"},
}


def _imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from a import b` may import the module a.b.
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _refused(source: str, allowed: frozenset[str]) -> list[str]:
    """Return what a module imports beyond what is allowed: a module allows all that is in it."""
    return [
        name
        for name in _imported(source)
        if not any(f"{name}.".startswith(f"{each}.") for each in allowed)
    ]


@pytest.mark.parametrize(("room", "allowed"), [("domain", DOMAIN), ("services", SERVICES)])
def test_what_a_room_imports_is_named_here(room: str, allowed: frozenset[str]) -> None:
    """A clock, a socket or a database in the rules of money cannot be seen from outside."""
    found = {}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if refused := _refused(path.read_text("utf-8"), allowed | MORE.get(name, set())):
            found[name] = refused
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import os", "import httpx", "from os import path", "def f():\n    import logging",
        "from viz import outbound", "import viz.store.ledger", "from viz.training import loop",
        "import collectionsx", "from viz.training.nf4_layer import x",
    ],
)  # fmt: skip
def test_anything_else_is_refused(source: str) -> None:
    """Also inside a function, and a module that is imported from its package."""
    assert _refused(source, DOMAIN) and _refused(source, SERVICES)


def test_no_module_imports_itself_by_others() -> None:
    """No circle anywhere, imports within functions and of the package above included."""
    graph = grimp.build_graph("viz", exclude_type_checking_imports=True)
    imports = {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}
    TopologicalSorter(imports).prepare()
