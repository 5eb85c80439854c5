"""What a local testnet says when it has lost part of its state."""

from __future__ import annotations

from pathlib import Path

import pytest

from viz import localnet
from viz.errors import ChainMismatch


async def test_a_testnet_that_lost_its_chain_never_advises_to_move_the_folder_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder holds keys and a ledger that may be worth money elsewhere: restore comes first."""

    async def lost(*_: object) -> None:
        raise ChainMismatch("The chain has another genesis block.")

    monkeypatch.setattr(localnet, "ensure_deployed", lost)
    with pytest.raises(ChainMismatch) as refused:
        await localnet._deployed("http://127.0.0.1:1", tmp_path)
    said = refused.value.detail
    assert "state.json" in said and "backup" in said and "--data-dir" in said and "Keep" in said
    assert not {"move", "delete", "remove"} & set(said.lower().split())
