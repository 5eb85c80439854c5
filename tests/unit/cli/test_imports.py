"""What a command loads: imports are most of the time that a short command takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"web3", "eth_account", "eth_abi", "eth_utils", "torch", "transformers", "py_ecc"}
HTTP_ONLY = HEAVY | {"aiohttp", "structlog", "pydantic_settings", "tokenizers", "coincurve"}
PROGRAM = """
import sys
from viz.cli import main
sys.argv = ["viz", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
print(*sorted(set(sys.modules) & set({unwanted!r})), sep=" ", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], HTTP_ONLY | {"typer", "rich", "asyncio"}),
        (["--help"], HTTP_ONLY),
        (["status", "--node", "http://127.0.0.1:1", "--data-dir", "."], HTTP_ONLY),
        (["adapter", "list", "--node", "http://127.0.0.1:1"], HTTP_ONLY),
        (["content", "show", "1", "--node", "http://127.0.0.1:1"], HTTP_ONLY - {"coincurve"}),
        (["buyer", "ask", "hi", "--node", "http://127.0.0.1:1", "--data-dir", "."], HEAVY),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_command_loads_only_what_it_uses(
    arguments: list[str], unwanted: set[str], tmp_path: Path
) -> None:
    """Protects every short command from a second of somebody else's imports."""
    from tests.fakes.chain import DEPLOYMENT

    from viz.chain.deployment import save_deployment

    save_deployment(tmp_path / "deployment.json", DEPLOYMENT)
    (tmp_path / "operator.token").write_text("token\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(arguments=arguments, unwanted=unwanted)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "VIZ_KEY_PASSWORD": "p"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].strip() == "", done.stderr
