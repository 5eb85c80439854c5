"""What nothing was measured on gets no score."""

from __future__ import annotations

import torch

from viz.training.evaluate import held_out_loss


def test_no_held_out_rows_have_no_loss() -> None:
    """Protects buyers from a perfect score of an adapter that was never examined."""
    assert held_out_loss(None, [], torch.float32, "cpu") is None
