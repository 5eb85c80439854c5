"""Viz: a market for works, the adapters trained on them, and paid answers."""

import contextlib
import sys

# py_ecc, which web3 brings, raises the interpreter's recursion limit to 100,000 when it is first
# imported. The C stack ends long before that: what recurses would end the process instead of
# raising RecursionError. So it is imported here, before all others, and the limit is set back.
_limit = sys.getrecursionlimit()
with contextlib.suppress(ImportError):
    import py_ecc  # noqa: F401
sys.setrecursionlimit(_limit)
