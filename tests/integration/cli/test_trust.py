"""`viz trust`: a node's word is shown, compared, agreed to once, and never replaced in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.http_server import serving
from typer.testing import CliRunner, Result

from viz.chain.deployment import deployment_json, load_deployment, save_deployment
from viz.cli.main import app
from viz.protocol.payment import DEPLOYMENT_PATH

TRUTH = replace(DEPLOYMENT, token_symbol="vUSD")
CONFIG, INPUT, CHAIN, NODE = 3, 4, 6, 12


@asynccontextmanager
async def node(answer: Any, status: int = 200) -> AsyncIterator[str]:
    """Serve one answer where a node tells its deployment; yield the node's address."""

    async def told(_: web.Request) -> web.Response:
        return web.json_response(answer, status=status)

    async with serving([web.get(DEPLOYMENT_PATH, told)]) as url:
        yield url


async def trust(url: str, home: Path, *more: str) -> Result:
    runner = CliRunner(env={"VIZ_RPC_URL": None, "VIZ_DATA_DIR": str(home)})
    return await asyncio.to_thread(runner.invoke, app, ["trust", url, *more])


async def test_what_is_trusted_is_shown_and_agreed_to_once(tmp_path: Path) -> None:
    """Protects newcomers: chain, contracts, symbol and decimals first; a file only after a yes."""
    home = tmp_path / "home"
    async with node(deployment_json(TRUTH)) as url:
        asked = await trust(url, home)
        assert asked.exit_code == INPUT and "--yes" in asked.stderr
        assert not (home / "deployment.json").exists()
        done = await trust(url, home, "--yes")
        again = await trust(url, home)
    for said in (TRUTH.settlement, TRUTH.content_registry, TRUTH.token, "vUSD, 6 decimals",
                 str(TRUTH.chain_id), "only the node says so"):  # fmt: skip
        assert said in asked.stdout and said in done.stdout
    assert done.exit_code == 0 and load_deployment(home / "deployment.json") == TRUTH
    assert again.exit_code == 0 and "already trusted" in again.stdout


async def test_a_url_without_a_node_is_what_to_check(tmp_path: Path) -> None:
    """The URL was the command's argument, so the advice does not name an option it lacks."""
    async with node(deployment_json(TRUTH)) as url:
        pass
    done = await trust(url, tmp_path, "--yes")
    assert done.exit_code == NODE and url in done.stderr and "check the URL" in done.stderr
    assert "--node" not in done.stderr
    published = "https://" + url.removeprefix("http://") + "/deployment.json"
    async with node(deployment_json(TRUTH)) as living:
        done = await trust(living, tmp_path, "--yes", "--published", published)
    assert done.exit_code == NODE and "--published" in done.stderr and "--node" not in done.stderr


async def test_another_deployment_never_replaces_the_trusted_one(tmp_path: Path) -> None:
    """Protects open channels: a second node cannot move them to contracts of its own."""
    save_deployment(tmp_path / "deployment.json", TRUTH)
    kept = (tmp_path / "deployment.json").read_bytes()
    for lie in ({"token_decimals": 8}, {"settlement": TRUTH.token}, {"chain_id": 1},
                {"genesis": "0x" + "77" * 32}, {"first_block": 1}):  # fmt: skip
        async with node(deployment_json(TRUTH) | lie) as url:
            done = await trust(url, tmp_path, "--yes")
        assert done.exit_code == CHAIN and "--data-dir" in done.stderr, done.output
        assert (tmp_path / "deployment.json").read_bytes() == kept


async def test_a_renamed_token_is_told_and_refuses_nobody(tmp_path: Path) -> None:
    """An honest node was refused as another deployment, because a token's name is no identity."""
    home, published = tmp_path / "home", tmp_path / "published.json"
    save_deployment(home / "deployment.json", TRUTH)
    save_deployment(published, replace(TRUTH, token_symbol="EUR"))
    async with node(deployment_json(replace(TRUTH, token_symbol="USDC"))) as url:
        again = await trust(url, home)
        new = await trust(url, tmp_path / "new", "--yes", "--published", str(published))
        both = await trust(url, home, "--published", str(published))
    assert (again.exit_code, new.exit_code, both.exit_code) == (0, 0, 0), again.output + new.output
    kept = f"amounts are shown in vUSD, as {home / 'deployment.json'} said; this node says USDC"
    assert f"{kept}\n" in again.stdout and "already trusted" in again.stdout
    assert f"{kept}, {published} says EUR\n" in both.stdout
    assert f"shown in EUR, as {published} says; this node says USDC\n" in new.stdout
    assert load_deployment(home / "deployment.json") == TRUTH
    assert load_deployment(tmp_path / "new" / "deployment.json").token_symbol == "EUR"


async def test_a_published_deployment_is_what_counts(tmp_path: Path) -> None:
    """Protects whoever has the project's own file: a node that differs is not kept."""
    save_deployment(tmp_path / "published.json", TRUTH)
    async with node(deployment_json(replace(TRUTH, token_decimals=8))) as url:
        done = await trust(url, tmp_path / "a", "--published", str(tmp_path / "published.json"))
        assert done.exit_code == CHAIN and "token_decimals" in done.stderr
        plain = await trust(url, tmp_path / "a", "--published", "http://somebody/d.json")
        assert plain.exit_code == CONFIG and "https" in plain.stderr
    async with node(deployment_json(TRUTH)) as url:
        done = await trust(
            url, tmp_path / "b", "--yes", "--published", str(tmp_path / "published.json")
        )
        assert done.exit_code == 0 and "compared with" in done.stdout
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ([], 200, NODE),
        ({}, 200, NODE),
        (deployment_json(TRUTH) | {"token_decimals": 10**9}, 200, NODE),
        (deployment_json(TRUTH) | {"token_decimals": True}, 200, NODE),
        (deployment_json(TRUTH) | {"chain_id": "31337"}, 200, NODE),
        ({"code": "node-refused", "detail": "not for you"}, 403, NODE),
    ],
)
async def test_nonsense_is_not_kept(tmp_path: Path, answer: Any, status: int, code: int) -> None:
    """Protects the command: an answer of another shape is one line, and no file."""
    async with node(answer, status) as url:
        done = await trust(url, tmp_path / "home", "--yes")
    assert isinstance(done.exception, SystemExit) and done.exit_code == code, done.output
    assert done.stderr.count("\n") == 1 and not (tmp_path / "home").exists()


async def test_a_symbol_commands_no_terminal_and_reads_as_no_amount(tmp_path: Path) -> None:
    """Protects whoever reads "2.50 ...": a symbol is a short word, or none."""
    for symbol in ("000000", "\x1b]0;x\x07", "v USD", "x" * 300, ",000"):
        async with node(deployment_json(TRUTH) | {"token_symbol": symbol}) as url:
            done = await trust(url, tmp_path / "home")
        assert "(tokens, 6 decimals)" in done.stdout, done.output
