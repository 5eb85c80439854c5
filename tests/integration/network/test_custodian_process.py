"""A custodian is a node without a model: it runs, as a process, where the model stack is not."""

from __future__ import annotations

from pathlib import Path

from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import real_node
from tests.integration.network.processes import custodian_process
from tests.integration.network.works import SECRET, license_to, registered_work

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
