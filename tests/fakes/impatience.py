"""Let one node wait a moment only for servers that a test made silent.

A shorter wait for every server would time the honest ones too: on a busy machine these are late.
"""

from __future__ import annotations

from typing import Any

import pytest

from viz.outbound import Outbound, OutboundReply

MOMENT_S = 0.5


def waits_a_moment_for(monkeypatch: pytest.MonkeyPatch, peers: Outbound, *urls: str) -> None:
    """Shorten the waits of ``peers`` for the servers at these URLs, and no others."""
    call = peers.call

    async def shortened(method: str, url: str, **options: Any) -> OutboundReply:
        if url.startswith(urls):
            options["timeout_s"] = MOMENT_S
        return await call(method, url, **options)

    monkeypatch.setattr(peers, "call", shortened)
