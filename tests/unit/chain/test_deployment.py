"""The deployment file: read whole or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from viz.chain.deployment import address_of, find_deployment, load_deployment, save_deployment
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, Hash32
from viz.errors import ConfigError, InvalidRequest

WHERE = Deployment(
    chain_id=31_337,
    genesis=Hash32(b"\1" * 32),
    token=Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
    token_decimals=6,
    content_registry=Address("0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"),
    adapter_registry=Address("0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"),
    settlement=Address("0xCf7Ed3AccA5a467e9e704C703E8D87F634fB0Fc9"),
    node_directory=Address("0xDc64a140Aa3E981100a9becA4E685f962f0cF6C9"),
    first_block=3,
)


def test_a_deployment_comes_back_as_written(tmp_path: Path) -> None:
    """Nothing is lost on the way through JSON, and nothing else is left in the folder."""
    path = tmp_path / "sub" / "deployment.json"
    assert find_deployment(path) is None
    save_deployment(path, WHERE)
    assert load_deployment(path) == find_deployment(path) == WHERE
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("member", ["genesis", "settlement", "chain_id", "first_block"])
@pytest.mark.parametrize("value", [None, "0x12", "nonsense"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, member: str, value: object) -> None:
    """Half a deployment is none."""
    path = tmp_path / "deployment.json"
    save_deployment(path, WHERE)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, member: value}), encoding="utf-8")
    with pytest.raises(ConfigError, match="not a complete deployment"):
        load_deployment(path)


@pytest.mark.parametrize("symbol", [None, "", 7, "a b", "\x1b[2J", "twelve-chars"])
def test_a_symbol_is_shown_only_as_one_short_word(tmp_path: Path, symbol: object) -> None:
    """Protects terminals and older files: what cannot stand beside an amount is "tokens"."""
    path = tmp_path / "deployment.json"
    save_deployment(path, replace(WHERE, token_symbol="vUSD"))
    assert load_deployment(path).token_symbol == "vUSD"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "token_symbol": symbol}), encoding="utf-8")
    assert load_deployment(path).token_symbol == "tokens"


def test_what_is_missing_says_what_to_run(tmp_path: Path) -> None:
    """No file: the command that makes one. An unknown contract: its name."""
    with pytest.raises(ConfigError, match=r"scripts/deploy\.py"):
        load_deployment(tmp_path / "none.json")
    with pytest.raises(InvalidRequest, match="no contract Bank"):
        address_of(WHERE, "Bank")
