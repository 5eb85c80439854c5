"""A custodian is a node without a model: it runs, as a process, where the model stack is not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import real_node
from tests.integration.network.processes import Process, custodian_process
from tests.integration.network.works import SECRET, CreatorsWork, license_to, registered_work

from viz.domain.eip712 import content_registry_domain, public_address, sign
from viz.domain.typed_data import Custody
from viz.protocol.custody import (
    CUSTODY_HEADER,
    CUSTODY_PATH,
    KEY_CHALLENGE_PATH,
    HandOver,
    KeyChallenge,
)
from viz.storage.sealing import wrap

TRAINER = 6


async def test_a_node_without_a_model_is_a_custodian(net: Testnet, tmp_path: Path) -> None:
    """It takes a work, gives its key to a licensed trainer, and sells and trains nothing."""
    work = await registered_work(net, tmp_path / "creator")
    async with (
        custodian_process(net, tmp_path / "a") as custodian,
        real_node(net, tmp_path / "b", TRAINER) as trainer,
    ):
        status, info = await custodian.call("GET", "/viz/v1/node")
        assert status == 200 and info["adapters"] == [] and info["baseModel"] == ""
        assert (await custodian.call("GET", "/v1/models"))[1]["data"] == []
        assert (await custodian.call("GET", "/healthz"))[0] == 200

        await work.publish(custodian, listed_at=[trainer])
        await license_to(net, TRAINER, work)
        status, found = await trainer.operate("POST", "/works", {"contentId": 1})
        assert status == 200, found
        assert Path(found["path"]).read_bytes() == work.path.read_bytes()

        for path, body in (
            ("/operator/v1/trainings", {"works": [{"contentId": 1}]}),
            ("/operator/v1/adapters", {"adapterId": 1}),
            ("/viz/v1/channels", {}),
        ):
            status, problem = await custodian.call("POST", path, body)
            assert (status, problem["code"]) == (503, "model-unavailable")
            # What is behind the node is its operator's to know.
            assert ("engine.backend" in problem["detail"]) == path.startswith("/operator/")
        kept = [path for path in custodian.folder.rglob("*") if path.is_file()]
        assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


async def half_upload(work: CreatorsWork, node: Process) -> None:
    """Begin to hand the work over, and return when the node has written the half of it."""
    wanted = KeyChallenge.from_json(
        (await node.call("POST", KEY_CHALLENGE_PATH, {"account": public_address(work.key)}))[1]
    )
    body = work.sealed.path.read_bytes()
    said = Custody(
        work.content_id,
        wanted.custodian,
        wanted.origin,
        work.sealed.cid,
        len(body),
        wanted.challenge,
        wanted.expiry_s,
    )
    age_key = (await node.call("GET", "/viz/v1/node"))[1]["ageKey"]
    deployment = work.net.deployment
    domain = content_registry_domain(deployment.chain_id, deployment.content_registry)
    signed = HandOver(said, sign(work.key, domain.digest(said)), wrap(work.sealed.key, age_key))
    _, writer = await asyncio.open_connection(urlsplit(node.url).hostname, urlsplit(node.url).port)
    head = (
        f"POST {CUSTODY_PATH} HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body)}\r\n"
        f"{CUSTODY_HEADER}: {signed.to_header()}\r\n\r\n"
    )
    writer.write(head.encode() + body[: len(body) // 2])
    await writer.drain()
    for _ in range(600):
        if list((node.folder / "sealed").glob("*")):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nothing was received")


async def test_what_a_killed_node_was_writing_is_gone_at_its_next_start(
    net: Testnet, tmp_path: Path
) -> None:
    """SIGKILL runs no cleanup: half an upload, or half a plain work, stays until then only."""
    work = await registered_work(net, tmp_path / "creator")
    async with custodian_process(net, tmp_path / "a") as node:
        await half_upload(work, node)
        await node.kill()
    # What the same signal leaves of an opened work, of weights and of a key.
    for name in ("works/1/.1.part", "works/.1.age", "adapters/.w.1.part", "keys/.1.part"):
        left = tmp_path / "a" / name
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_text(SECRET)
    (tmp_path / "a" / "works" / "1" / "work.txt").write_text("whole")
    async with custodian_process(net, tmp_path / "a") as node:
        kept = [path for path in node.folder.rglob("*") if path.is_file()]
        assert not [path for path in kept if path.suffix in (".part", ".age")]
        assert not [path for path in kept if SECRET.encode() in path.read_bytes()]
        assert (node.folder / "works" / "1" / "work.txt").read_text() == "whole"
        await work.publish(node)
