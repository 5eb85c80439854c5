"""A start with very many receipts, and a claim of very many channels."""

from __future__ import annotations

from pathlib import Path


async def measure(folder: Path, receipts: int, channels: int) -> None:
    """Print how long both take."""
