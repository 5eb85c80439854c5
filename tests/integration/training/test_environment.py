"""What the manifest tells of the place where an adapter was trained."""

from __future__ import annotations

import pytest

from viz.processor import Processor
from viz.training import environment
from viz.training.environment import describe
from viz.training.run import TrainingSettings


def test_processors_that_sum_in_another_order_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Protects an honest trainer: AMX, AVX-512 and another vendor's chip are no one class."""
    both = {"avx2", "avx512f", "avx512_bf16", "smep", "nx"}
    chips = [
        ("GenuineIntel", both | {"amx_bf16"}),
        ("GenuineIntel", both),
        ("AuthenticAMD", both),
        ("AuthenticAMD", both - {"smep"}),
    ]
    found = []
    for vendor, flags in chips:
        chip = Processor(vendor, "", frozenset(flags))
        monkeypatch.setattr(environment, "read_processor", lambda chip=chip: chip)
        found.append(describe(TrainingSettings()))
    amx, intel, amd, plain = found
    assert amx["bf16Hardware"] == intel["bf16Hardware"] == amd["bf16Hardware"]
    assert amx != intel and intel != amd
    assert amd == plain, "a flag that no kernel is chosen by makes no difference"
