"""A disk that fills while a work is received: the creator is told that, and nothing is left."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import real_node
from tests.integration.network.works import registered_work

from viz.errors import StorageError, StorageFull, StorageUnavailable
from viz.services.custody import custodian


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, StorageUnavailable),
    ],
)
async def test_a_full_disk_is_told_as_full(
    net: Testnet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: type[StorageError],
) -> None:
    """Protects a creator from trying again in circles: a full disk is `storage-full`, as the
    protocol promises, and only a store that may come back is unavailable."""
    opened = custodian._opened

    class Full:
        def __init__(self, path: Path) -> None:
            self._file = opened(path)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: Any) -> None:
            self._file.close()

        def write(self, _: bytes) -> int:
            raise OSError(number, "no")

    work = await registered_work(net, tmp_path / "creator")
    async with real_node(net, tmp_path / "a", 5) as node:
        monkeypatch.setattr(custodian, "_opened", Full)
        with pytest.raises(StorageError) as refused:
            await work.hand_over(node)
        assert type(refused.value) is expected
        assert not [name for name in node.files() if name.endswith(".part")]
        monkeypatch.undo()
        await work.hand_over(node)
