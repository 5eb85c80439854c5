"""What a node sets up for its whole process."""

from __future__ import annotations

import subprocess
import sys


def test_the_interpreters_own_bound_on_recursion_is_in_force() -> None:
    """Protects the process: a library raises the bound beyond the stack when it is imported."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; before = sys.getrecursionlimit(); import py_ecc; "
            "raised = sys.getrecursionlimit(); import viz.node; viz.node.bound_recursion(); "
            "print(raised > before, before == sys.getrecursionlimit())",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert told.stdout.split() == ["True", "True"]
