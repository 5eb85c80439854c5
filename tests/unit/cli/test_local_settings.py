"""`viz up` runs the node with the operator's own settings, except those of its local chain."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from viz.cli.operator.daemon import _on_localnet
from viz.settings.config import Config


@pytest.mark.parametrize("kubo", [False, True])
def test_only_what_the_local_chain_decides_is_changed(tmp_path: Path, kubo: bool) -> None:
    """A whole section was replaced for one of its settings: discover_s went back to 300."""
    given: dict[str, Any] = {
        "data_dir": tmp_path,
        "chain": {"rpc_url": "http://127.0.0.1:1", "confirmations": 3},
        "storage": {"max_bytes": 2**30},
        "network": {"discover_s": 60},
        "notices": {"answer_s": 7_200},
    }
    before = Config(**given)
    net: Any = SimpleNamespace(
        password="p",
        devnet=SimpleNamespace(url="http://127.0.0.1:2"),
        kubo=SimpleNamespace(api="http://127.0.0.1:3") if kubo else None,
    )
    after = _on_localnet(before, net)
    expected = before.model_dump()
    expected["key_password"] = after.key_password
    expected["chain"]["rpc_url"] = net.devnet.url
    expected["network"]["private_addresses"] = True
    if net.kubo:
        expected["storage"] |= {"backend": "kubo", "kubo_api": net.kubo.api}
    assert after.model_dump() == expected and after.key_password.get_secret_value() == "p"
