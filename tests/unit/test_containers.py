"""The compose file against our own command line and settings, so that neither drifts from it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts.containers import PREFIX, run_arguments

from viz.settings.config import load

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.parametrize("name", [name for name in SERVICES if "command" in SERVICES[name]])
def test_a_services_command_is_one_that_the_cli_has(name: str) -> None:
    """A renamed option breaks this test, not somebody's `docker compose up`."""
    command: list[str] = SERVICES[name]["command"]
    words = command[: next(i for i, word in enumerate(command) if word.startswith("-"))]
    run = subprocess.run(
        [sys.executable, "-m", "viz", *words, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for option in (word for word in command if word.startswith("--")):
        assert re.search(rf"{option}\b", run.stdout), f"viz {' '.join(words)} has no {option}"


def test_the_nodes_environment_is_a_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unknown settings are refused at start, so they must not be in the file we ship."""
    secret = tmp_path / "operator.password"
    secret.write_text("secret\n")
    environment = SERVICES["node"]["environment"] | {"VIZ_KEY_PASSWORD_FILE": str(secret)}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    config = load()
    assert config.storage.backend == "kubo"
    assert config.storage.kubo_api == "/ip4/127.0.0.1/tcp/5001"
    assert config.chain.rpc_url == "http://127.0.0.1:8545"
    assert config.key_password.get_secret_value() == "secret"


def test_nothing_is_published_beyond_this_machine() -> None:
    """A development chain's keys are known to everybody."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8402:8402"]


def test_every_service_keeps_its_state_and_says_how_it_is() -> None:
    """A restart loses nothing, and the node starts only after what it needs answers."""
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"], name
        for volume in service["volumes"]:
            assert volume.partition(":")[0] in COMPOSE["volumes"], name


def test_the_image_does_not_run_as_root_and_copies_only_what_it_is_sent() -> None:
    """A served request that breaks out finds an account without rights."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["viz"]
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), f"the Dockerfile copies {source}, which is not there"
            assert f"!{source}" in sent or source.startswith("node/"), source


@pytest.mark.parametrize("name", SERVICES)
def test_podman_is_given_all_that_the_file_says_of_a_service(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that scripts/containers does not translate stops it, so a run proves the whole file."""
    monkeypatch.delenv("VIZ_RUN_OPTIONS", raising=False)
    given = run_arguments(name, SERVICES[name])
    shared = SERVICES[name].get("network_mode", "").removeprefix("service:")
    assert (f"--network=container:{PREFIX}{shared}" in given) == bool(shared)
    assert given[-len(command := SERVICES[name].get("command", [])) :] == command or not command
    with pytest.raises(SystemExit, match="privileged"):
        run_arguments(name, SERVICES[name] | {"privileged": True})
