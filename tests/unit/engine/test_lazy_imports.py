"""The engine and the base model cost nothing to import: no torch before ``start``."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_front_imports_no_model_stack() -> None:
    """A node's command line, and the core install without torch, can import these modules."""
    code = (
        "import sys, viz.engine.embedded.engine, viz.engine.embedded.settings\n"
        "import viz.engine.embedded.backend_choice, viz.engine.upstream.engine\n"
        "import viz.basemodel.source, viz.basemodel.nf4, viz.basemodel.adapter_file\n"
        "heavy = {'torch', 'transformers', 'bitsandbytes', 'peft', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
