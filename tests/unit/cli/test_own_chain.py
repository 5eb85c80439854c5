"""A chain's endpoint that cannot be used: the message says where it was named."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.chain import DEPLOYMENT

from viz.chain.rpc import Rpc
from viz.cli.own_chain import own_chain
from viz.domain.ports.chain import Deployment
from viz.errors import ChainUnreachable, ConfigError

DEAD = "http://127.0.0.1:1"


async def unreachable(rpc: Rpc, deployment: Deployment, remedy: str) -> None:
    raise ChainUnreachable(f"{rpc.url} does not answer")


@pytest.mark.parametrize(("url", "kind"), [(DEAD, ChainUnreachable), ("nonsense", ConfigError)])
@pytest.mark.parametrize("by_variable", [True, False])
def test_an_endpoint_of_the_environment_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, url: str, kind: type[Exception], by_variable: bool
) -> None:
    """Who set VIZ_RPC_URL long ago looked for the fault in the command's own options."""
    monkeypatch.setattr(Rpc, "check", unreachable)
    monkeypatch.setenv("VIZ_RPC_URL", url if by_variable else "http://another")

    async def use() -> None:
        async with own_chain(url, DEPLOYMENT):
            pass

    with pytest.raises(kind, match=url) as told:
        asyncio.run(use())
    assert ("VIZ_RPC_URL names this endpoint" in str(told.value)) is by_variable
