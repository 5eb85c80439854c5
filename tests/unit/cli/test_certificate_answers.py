"""What `viz content certificates` makes of whole answers, of far times, and of silence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.remote_nodes import info
from typer.testing import CliRunner, Result

from viz.chain.deployment import save_deployment
from viz.cli import http
from viz.cli.main import app
from viz.domain.destruction import HeldItem
from viz.domain.eip712 import public_address, settlement_domain
from viz.domain.units import ContentId
from viz.protocol.destruction import certify

KEY, NODE_URL = b"\x11" * 32, "http://127.0.0.1:1"
PUBLIC_CHAIN = 8_453
YEAR_2499_S = 16_700_000_000
Ask = Callable[..., Result]


def certificate(chain_id: int, *, time_s: int) -> dict[str, Any]:
    made = certify(
        KEY,
        settlement_domain(chain_id, DEPLOYMENT.settlement),
        public_address(KEY),
        ContentId(3),
        withdrawn_at_s=time_s - 90_000,
        due_at_s=time_s - 3_600,
        time_s=time_s,
        destroyed=(HeldItem("weights", "fae0"),),
        left=(),
    )
    return made.to_json()


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return a call of the command, at a node of the trusted chain that gives this answer."""

    def asked(answer: dict[str, Any], chain_id: int, chain_time_s: int) -> Result:
        save_deployment(tmp_path / "deployment.json", replace(DEPLOYMENT, chain_id=chain_id))
        said = info(public_address(KEY), (), chain_id=chain_id, chain_time_s=chain_time_s).to_json()

        def read(exchange: http.Exchange) -> tuple[bytes, int]:
            body = answer if exchange._target.endswith("/certificates") else said
            return json.dumps(body).encode(), 200

        monkeypatch.setattr(http.Exchange, "_read", read)
        place = {"VIZ_DATA_DIR": str(tmp_path), "VIZ_RPC_URL": "", "COLUMNS": "10000"}
        return CliRunner(env=place).invoke(
            app, ["content", "certificates", "3", "--node", NODE_URL]
        )

    return asked


def refused(done: Result, words: str) -> None:
    told = " ".join(done.stderr.split())
    assert done.exit_code == 12 and "node-not-trusted" in told and words in told, done.output


def test_a_certificate_of_the_far_future_is_not_believed(ask: Ask) -> None:
    """Without --rpc this machine's clock bounds it; the accused node's own time does not."""
    now_s = int(time.time())
    true = {"certificates": [certificate(PUBLIC_CHAIN, time_s=now_s)]}
    assert ask(true, PUBLIC_CHAIN, now_s).exit_code == 0
    far = {"certificates": [certificate(PUBLIC_CHAIN, time_s=YEAR_2499_S)]}
    done = ask(far, PUBLIC_CHAIN, YEAR_2499_S)
    refused(done, "the time by this machine's clock")
    refused(done, "certifies what has not happened")


def test_a_development_chain_s_time_may_be_moved(ask: Ask) -> None:
    """Protects who tries a withdrawal out: there the chain's days pass in seconds."""
    chain_id = DEPLOYMENT.chain_id
    moved = {"certificates": [certificate(chain_id, time_s=YEAR_2499_S)]}
    assert ask(moved, chain_id, YEAR_2499_S).exit_code == 0
    refused(ask(moved, chain_id, int(time.time())), "certifies what has not happened")


def test_one_destruction_is_not_certified_twice(ask: Ask) -> None:
    """An answer with a certificate twice tells of two destructions, and one was."""
    now_s = int(time.time())
    one = certificate(PUBLIC_CHAIN, time_s=now_s)
    other = certificate(PUBLIC_CHAIN, time_s=now_s - 9)
    assert ask({"certificates": [one, other]}, PUBLIC_CHAIN, now_s).exit_code == 0
    refused(ask({"certificates": [one, other, one]}, PUBLIC_CHAIN, now_s), "twice")


@pytest.mark.parametrize(
    "where", ["note", "certificates[0].note", "certificates[0].certificate.note",
              "certificates[0].destroyed[0].note"],
)  # fmt: skip
def test_what_no_signature_covers_is_named(ask: Ask, where: str) -> None:
    """Another program shows it beside what the node signed, as if it had signed that too."""
    now_s = int(time.time())
    one = certificate(PUBLIC_CHAIN, time_s=now_s)
    answer: dict[str, Any] = {"certificates": [one]}
    place = {
        "note": answer,
        "certificates[0].note": one,
        "certificates[0].certificate.note": one["certificate"],
        "certificates[0].destroyed[0].note": one["destroyed"][0],
    }[where]
    place["note"] = "all copies everywhere were destroyed"
    done = ask(answer, PUBLIC_CHAIN, now_s)
    refused(done, f"says more than a certificate does, in '{where}'")
    assert "everywhere" not in done.output


def test_a_node_that_hangs_ends_a_question_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's node that takes the question and is silent kept the person for two minutes."""
    save_deployment(tmp_path / "deployment.json", DEPLOYMENT)
    waited: list[float] = []

    def hang(exchange: http.Exchange) -> tuple[bytes, int]:
        waited.append(float(exchange._connection.timeout or 0))
        raise TimeoutError("timed out")

    monkeypatch.setattr(http.Exchange, "_read", hang)
    for command in (["content", "certificates", "3"], ["content", "keys", "3"]):
        done = CliRunner(env={"VIZ_DATA_DIR": str(tmp_path)}).invoke(
            app, [*command, "--node", NODE_URL]
        )
        told = " ".join(done.stderr.split())
        assert done.exit_code == 12, done.output
        assert f"the node at {NODE_URL} gave no whole answer within 30 seconds" in told, told
    assert waited == [http.QUESTION_S] * 2
