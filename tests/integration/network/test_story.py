"""Four people who never met: a creator, a custodian, a trainer, a second server. And a buyer."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.engine import fake_adapter_file
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode, real_node
from tests.integration.network.processes import custodian_process
from tests.integration.network.works import SECRET, license_to, registered_work

from viz.domain.units import Hash32
from viz.services.adapters.publishing import Publication

TRAINER, SERVER = 6, 7


async def test_a_work_becomes_an_adapter_that_another_node_serves(
    net: Testnet, tmp_path: Path
) -> None:
    """Each gets what the chain lets it have, and the custodian can go when it has given its key."""
    work = await registered_work(net, tmp_path / "creator")
    async with (
        real_node(net, tmp_path / "b", TRAINER) as trainer,
        real_node(net, tmp_path / "c", SERVER) as server,
    ):
        async with custodian_process(net, tmp_path / "a") as custodian:
            await work.publish(custodian, listed_at=[trainer])
            await license_to(net, TRAINER, work)
            status, found = await trainer.operate("POST", "/works", {"contentId": 1})
            assert status == 200, found
        # The custodian is gone: what it gave stays.
        plan = {"works": [{"contentId": 1}], "dryRun": True}
        assert (await trainer.operate("POST", "/trainings", plan))[0] == 200

        weights = fake_adapter_file(tmp_path / "adapter.safetensors")
        made = await trainer.parts.publishing.publish(
            Publication(
                weights,
                trainer.engine.model.digest,
                Hash32(b"\x0c" * 32),
                3_000,
                1_000,
                [(work.content_id, 10_000)],
            )
        )
        adapter = int(made.adapter_id)
        await trainer.announce()
        body = {"adapterId": adapter, "node": server.address, "allowed": True}
        assert (await trainer.operate("POST", "/adapters/permissions", body))[0] == 200
        status, offer = await server.operate("POST", "/adapters", {"adapterId": adapter})
        assert status == 201, offer
        assert offer["model"] in [each["model"] for each in await _sold(server)]
    assert SECRET.encode() not in b"".join(server.files().values())


async def _sold(node: RealNode) -> list[dict[str, str]]:
    _, info = await node.call("GET", "/viz/v1/node")
    found: list[dict[str, str]] = info["adapters"]
    return found
