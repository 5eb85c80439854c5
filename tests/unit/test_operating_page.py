"""What docs/operating.md tells operators to type is about the files that a node really has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import viz.backends

PAGE: Final = Path(__file__).parents[2] / "docs" / "operating.md"


def test_the_backup_is_of_the_ledger_that_the_node_opens() -> None:
    """A backup of another file name is empty and ends without an error: all vouchers are lost."""
    source = Path(viz.backends.__file__).read_text()
    (name,) = re.findall(r'config\.at\(Path\("(ledger[^"]*)"\)\)', source)
    typed = re.findall(r"^    .*sqlite3.*$", PAGE.read_text(), re.MULTILINE)
    assert typed
    for line in typed:
        assert set(re.findall(r"[\w.-]*ledger[\w.-]*", line)) == {name}, line
