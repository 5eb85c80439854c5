"""`viz trust --rpc`: what a node says of its deployment, compared with the chain itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.json_rpc import endpoint
from tests.integration.chain.testnet import Testnet
from tests.integration.cli.test_trust import CHAIN, node, trust

from viz.chain.deploy import ensure_deployed
from viz.chain.deployment import deployment_json, load_deployment, save_deployment
from viz.chain.endpoint import NotSupported
from viz.chain.keys import development_account
from viz.chain.rpc import Rpc
from viz.cli.own_chain import own_chain
from viz.errors import ChainMismatch

CREATED = 3  # blocks after the first: token, ContentRegistry, AdapterRegistry


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda true: {"first_block": 10**12}, "no event would be found"),
        (lambda true: {"first_block": true.first_block + CREATED}, "would be missed"),
        (lambda true: {"settlement": true.token}, "not the deployment's Settlement"),
    ],
)
async def test_no_part_of_a_deployment_is_the_nodes_word(
    net: Testnet, tmp_path: Path, lie: Any, words: str
) -> None:
    """A creator's statements stayed broken, and blamed her endpoint, as long as the file did."""
    told = replace(net.deployment, **lie(net.deployment))
    async with node(deployment_json(told)) as url:
        refused = await trust(url, tmp_path / "home", "--yes", "--rpc", net.anvil.url)
    assert refused.exit_code == CHAIN and words in " ".join(refused.output.split()), refused.output
    assert not (tmp_path / "home" / "deployment.json").exists()


async def test_the_tokens_symbol_is_the_chains(net: Testnet, tmp_path: Path) -> None:
    """Amounts are shown in it. Tokens change it, so a difference is told and refuses nobody."""
    told = replace(net.deployment, token_symbol="USDC")
    async with node(deployment_json(told)) as url:
        kept = await trust(url, tmp_path / "home", "--yes", "--rpc", net.anvil.url)
        again = await trust(url, tmp_path / "home")
    words = "amounts are shown in vUSD, as "
    assert kept.exit_code == 0 and f"{words}it calls itself on that chain; this node says USDC" in (
        kept.output
    )
    assert again.exit_code == 0 and words in again.output and "node says USDC" in again.output
    assert load_deployment(tmp_path / "home" / "deployment.json") == net.deployment


async def test_a_symbol_that_was_kept_before_is_renewed_from_the_chain(
    net: Testnet, tmp_path: Path
) -> None:
    """The same node was refused by whoever had trusted it before, without a chain of her own."""
    home, old = tmp_path / "home", replace(net.deployment, token_symbol="USDC")
    place = home / "deployment.json"
    async with node(deployment_json(old)) as url:
        await trust(url, home, "--yes")
        assert load_deployment(place) == old
        done = await trust(url, home, "--rpc", net.anvil.url)
    assert done.exit_code == 0 and f"this node says USDC, {place} said USDC" in done.output
    assert load_deployment(place) == net.deployment
    save_deployment(place, old)
    assert await ensure_deployed(net.rpc, development_account(0), place) == net.deployment
    assert load_deployment(place) == net.deployment


async def test_an_endpoint_that_knows_only_the_newest_block_refuses_nothing(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers for an old block with today's code, and an honest deployment looked too late."""
    later = replace(net.deployment, first_block=net.deployment.first_block + 1)
    code = Rpc.code
    monkeypatch.setattr(Rpc, "code", lambda self, address, block="latest": code(self, address))
    async with node(deployment_json(later)) as url:
        kept = await trust(url, tmp_path / "home", "--yes", "--rpc", net.anvil.url)
    assert kept.exit_code == 0 and "was not checked" in " ".join(kept.output.split()), kept.output


async def test_a_true_deployment_is_kept_also_where_old_states_are_gone(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoints of today keep few states: what was not checked is told, and nothing is refused."""
    async with node(deployment_json(net.deployment)) as url:
        kept = await trust(url, tmp_path / "home", "--yes", "--rpc", net.anvil.url)
        assert kept.exit_code == 0 and "not checked" not in kept.output, kept.output
        assert load_deployment(tmp_path / "home" / "deployment.json") == net.deployment
    later = replace(net.deployment, first_block=net.deployment.first_block + 1)
    code = Rpc.code

    async def pruned(self: Rpc, address: Any, block: Any = "latest") -> bytes:
        if block != "latest":
            raise NotSupported("missing trie node")
        return await code(self, address)

    monkeypatch.setattr(Rpc, "code", pruned)
    async with node(deployment_json(later)) as url:
        kept = await trust(url, tmp_path / "other", "--yes", "--rpc", net.anvil.url)
    assert kept.exit_code == 0 and "was not checked" in " ".join(kept.output.split()), kept.output


@pytest.mark.parametrize(
    "refusal",
    [
        {"code": -32602, "message": "block number out of range"},
        {"code": -32000, "message": "distance to target block exceeds maximum proof window"},
        {"code": -32000, "message": "missing trie node"},
        {"code": -32001, "message": "no such state"},
    ],
)
async def test_an_old_state_is_missing_however_the_endpoint_words_it(
    net: Testnet, tmp_path: Path, refusal: dict[str, Any]
) -> None:
    """Some word it as a range that is too wide, and an honest deployment was refused for it."""
    later = replace(net.deployment, first_block=net.deployment.first_block + 1)

    def code(question: dict[str, Any]) -> Any:
        return None if question["params"][1] == "latest" else {"error": refusal}

    async with endpoint(net.anvil.url) as served, node(deployment_json(later)) as url:
        served.told["eth_getCode"] = code
        kept = await trust(url, tmp_path / "home", "--yes", "--rpc", served.url)
    assert kept.exit_code == 0 and "was not checked" in kept.output, kept.output


async def test_an_endpoint_without_the_first_block_is_told_apart(
    net: Testnet, tmp_path: Path
) -> None:
    """It said that the chain lacks "this block", and not which, nor what helps."""
    async with endpoint(net.anvil.url) as served, node(deployment_json(net.deployment)) as url:
        served.told["eth_getBlockByNumber"] = {"result": None}
        refused = await trust(url, tmp_path / "home", "--yes", "--rpc", served.url)
    assert refused.exit_code == CHAIN and "block 0" in refused.output and "--rpc" in refused.output


@pytest.mark.parametrize(
    ("method", "answer", "fact"),
    [
        ("eth_chainId", "0x1", "is chain 1,"),
        ("eth_getBlockByNumber", "", "begins with block 0x11"),
        ("eth_getCode", "0x", "has no contract at"),
    ],
)
async def test_another_chain_is_told_with_what_the_command_has(
    net: Testnet, tmp_path: Path, method: str, answer: str, fact: str
) -> None:
    """Buyers and creators were told to correct a node's settings, which they do not have."""
    other = {"number": "0x0", "hash": "0x" + "11" * 32, "parentHash": "0x" + "00" * 32}
    async with endpoint(net.anvil.url) as served, node(deployment_json(net.deployment)) as url:
        served.told[method] = {"result": answer or other | {"timestamp": "0x0"}}
        refused = await trust(url, tmp_path / "home", "--yes", "--rpc", served.url)
        with pytest.raises(ChainMismatch) as own:
            async with own_chain(served.url, net.deployment):
                pass
    assert refused.exit_code == CHAIN
    for said in (refused.output, own.value.detail):
        assert fact in said and "correct --rpc (VIZ_RPC_URL)" in said, said
        assert "rpc_url" not in said.replace("VIZ_RPC_URL", "") and "chain.deployment" not in said
    assert "do not use the node" in refused.output
    assert "deployment file" in own.value.detail and "--data-dir" in own.value.detail
