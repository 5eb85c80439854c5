"""scripts/register_content.py as a creator runs it: relayed through a node, and directly."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.fakes.chain import DEPLOYMENT
from tests.integration.chain.testnet import Testnet, address
from tests.integration.services.claiming import SystemClock

from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.domain.units import ContentId, parse_address
from viz.domain.work import check_commitment
from viz.errors import VizError
from viz.protocol.registration import (
    CONTENTS_PATH,
    REGISTRATION_CONTEXT_PATH,
    RegistrationAnswer,
    SignedRegistration,
)
from viz.services.licensing.creator_relay import CreatorRelay
from viz.services.work_records import load_record, read_work, record_path

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "works" / "varn-point"
PASSWORD = "correct horse"


@asynccontextmanager
async def relay(net: Testnet) -> AsyncIterator[str]:
    """Serve the two routes of a node's relay over HTTP; yield its URL."""
    desk = CreatorRelay(net.chain, net.sender(5), SystemClock())

    async def context(request: web.Request) -> web.Response:
        creator = parse_address(request.match_info["creator"])
        return web.json_response((await desk.registration_context(creator)).to_json())

    async def register(request: web.Request) -> web.Response:
        try:
            signed = SignedRegistration.from_json(await request.json())
            done = await desk.relay_registration(signed.register, signed.signature)
        except VizError as error:
            return web.json_response({"detail": error.detail}, status=error.status)
        answer = RegistrationAnswer(done.content_id, done.transaction.hash)
        return web.json_response(answer.to_json())

    app = web.Application()
    app.add_routes([web.get(REGISTRATION_CONTEXT_PATH, context), web.post(CONTENTS_PATH, register)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def script(*arguments: str | Path, password: str = PASSWORD) -> tuple[int, str, str]:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "scripts/register_content.py",
        *map(str, arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "node", "VIZ_KEY_PASSWORD": password},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(running.communicate(), 60)
    return running.returncode or 0, out.decode(), err.decode()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "work"))


def new_key(folder: Path) -> tuple[Path, Any]:
    path = folder / "creator.key.json"
    return path, create_key_file(path, PASSWORD, scrypt_n=2)


@pytest.mark.parametrize("direct", [False, True])
async def test_a_work_is_registered_with_its_record(
    net: Testnet, tmp_path: Path, work: Path, direct: bool
) -> None:
    """Both ways give the same: the creator owns it, and file, salt and chain fit together.

    The chain made no block for two hours, which is longer than a signature holds: one that was
    dated by the newest block was refused as expired, again and again.
    """
    await net.rpc.request("evm_increaseTime", [7_200])
    key_file, account = new_key(tmp_path)
    creator = address(account)
    async with relay(net) as url:
        save_deployment(tmp_path / "d.json", net.deployment)
        way: list[str | Path] = ["--deployment", tmp_path / "d.json", "--yes", "--rpc"]
        if direct:
            await net.anvil.fund(creator)
            way += [net.anvil.url, "--direct"]
        else:
            way += [net.anvil.url, "--node", url, "--offline"]
        code, out, err = await script(work, "--key", key_file, *way, "--json")
        assert code == 0, err
        for words in ("2.000000 vUSD, once for each grant", "at least 8 % of", "365 days"):
            assert words in err, "what is signed is told in words"
        again = await script(work, "--key", key_file, *way)
        held = record_path(work / "work.jsonl").read_bytes()
        (tmp_path / "other").mkdir()
        other_key, _ = new_key(tmp_path / "other")
        other = await script(work, "--key", other_key, *way)
    assert again[0] == 4
    assert "registered already, as work 1" in again[2]
    assert other[0] == 4 and f"registered already by {creator}, as work 1" in other[2]
    assert record_path(work / "work.jsonl").read_bytes() == held, "only it holds the salt"

    record = load_record(work / "work.jsonl")
    assert record is not None
    assert record.content_id == json.loads(out)["contentId"] == 1
    assert "salt" not in json.loads(out)
    content = await net.chain.content(ContentId(1))
    assert content is not None
    assert content.owner == creator
    assert content.terms_hash == record.terms.terms_hash(record.license_hash)
    check_commitment(
        read_work(work / "work.jsonl", record.kind), creator, record.salt, content.commitment
    )
    kept = work / "work.jsonl.registration.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert record.terms.training_fee_units == 2_000_000


async def test_a_salt_outlives_a_failed_registration(
    net: Testnet, tmp_path: Path, work: Path
) -> None:
    """A run that failed after drafting leads to the same commitment the next time."""
    key_file, account = new_key(tmp_path)
    save_deployment(tmp_path / "d.json", net.deployment)
    way = ["--direct", "--rpc", net.anvil.url, "--deployment", str(tmp_path / "d.json"), "--yes"]
    code, _, err = await script(work, "--key", key_file, *way)
    assert code == 6
    assert "insufficient funds" in err.lower() and "Send the account coins for gas" in err
    first = load_record(work / "work.jsonl")
    assert first is not None
    assert first.content_id is None
    await net.anvil.fund(address(account))
    code, _, err = await script(work, "--key", key_file, *way)
    assert (code, err) == (0, "")
    second = load_record(work / "work.jsonl")
    assert second is not None
    assert second.commitment == first.commitment


async def test_bad_input_is_one_line_that_says_what_to_do(tmp_path: Path, work: Path) -> None:
    """Wrong password, no key, no node, no deployment: an exit code, one line, no traceback."""
    key_file, _ = new_key(tmp_path)
    save_deployment(tmp_path / "trusted.json", DEPLOYMENT)
    trusted: list[str | Path] = ["--deployment", tmp_path / "trusted.json"]
    nowhere = "http://127.0.0.1:9"
    cases: tuple[tuple[list[str | Path], str, int, str], ...] = (
        (["--key", key_file, *trusted], "wrong", 4, "password does not open"),
        (["--key", tmp_path / "none.json", *trusted], PASSWORD, 4, "there is no key file"),
        (["--key", work / "terms.toml", *trusted], PASSWORD, 4, "not a key file"),
        (
            ["--key", key_file, *trusted, "--node", nowhere],
            PASSWORD,
            12,
            "no node answers",
        ),
        (
            ["--key", key_file, "--direct", "--deployment", tmp_path / "d.json"],
            PASSWORD,
            3,
            "viz trust URL",
        ),
    )
    for arguments, password, expected, reason in cases:
        code, out, err = await script(work, *arguments, password=password)
        assert (code, out) == (expected, "")
        assert reason in err
        assert err.count("\n") == 1
