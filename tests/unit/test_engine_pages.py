"""The files of deploy/engines and docs/engines.md against our settings, so that neither drifts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from viz.engine.upstream.settings import MARGINS
from viz.settings.config import Config, load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "engines"
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yml").read_text(encoding="utf-8"))
MANIFEST: list[dict[str, Any]] = list(
    yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
)
BY_KIND = {each["kind"]: each for each in MANIFEST}
POD: dict[str, Any] = BY_KIND["StatefulSet"]["spec"]["template"]["spec"]
ALLOWED = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"


def flags(arguments: list[str]) -> dict[str, str]:
    """Return vLLM's options by name; one without a value is empty."""
    return {name: value for name, _, value in (each.partition("=") for each in arguments)}


def config_of_compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    secret = tmp_path / "password"
    secret.write_text("secret\n")
    environment: dict[str, str] = COMPOSE["services"]["node"]["environment"]
    given = {"VIZ_RPC_URL": "http://chain", "VIZ_BASE_DIGEST": "0x" + "12" * 32}
    for key, value in (environment | {"VIZ_KEY_PASSWORD_FILE": str(secret)}).items():
        filled = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: given[found[1]], value)
        monkeypatch.setenv(key, filled)
    return load()


def assert_fits(config: Config, vllm: dict[str, str]) -> None:
    """Assert that the servers take what the node will ask of them."""
    (engine,) = config.engines
    upstream = engine.upstream
    assert engine.backend == "upstream"
    assert "--enable-lora" in vllm
    assert vllm["--dtype"] == upstream.arithmetic
    assert int(vllm["--max-lora-rank"]) == upstream.max_rank
    assert int(vllm["--max-cpu-loras"]) == upstream.max_adapters
    assert int(vllm["--max-cpu-loras"]) >= int(vllm["--max-loras"]) > 1
    assert int(vllm["--max-model-len"]) >= engine.context_tokens


def test_the_compose_files_node_fits_its_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bound that only one of the two knows is found here, not by the first buyer."""
    config = config_of_compose(monkeypatch, tmp_path)
    server = COMPOSE["services"]["vllm"]
    assert_fits(config, flags(server["command"]))
    assert server["environment"][ALLOWED] == "True"
    assert config.engines[0].upstream.urls == ("http://vllm:8000",)
    assert "ports" not in server, "whoever reaches the server is served unpaid"
    shared = [each for each in server["volumes"] if ":/adapters" in each]
    assert shared == ["/srv/viz/adapters:/adapters:ro"]
    assert "/srv/viz/adapters:/adapters" in COMPOSE["services"]["node"]["volumes"]


def test_the_manifest_is_one_that_kubernetes_takes() -> None:
    """Names that must agree do: labels, service, ports, volumes and claims."""
    for each in MANIFEST:
        assert {"apiVersion", "kind", "metadata", "spec"} <= each.keys()
    labels = BY_KIND["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert BY_KIND["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    assert BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert BY_KIND["StatefulSet"]["spec"]["serviceName"] == BY_KIND["Service"]["metadata"]["name"]
    assert BY_KIND["Service"]["spec"]["clusterIP"] == "None", "each replica has its own address"
    (container,) = POD["containers"]
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in POD["volumes"]}
    named = {each["name"] for each in container["ports"]}
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
        assert container[probe]["httpGet"]["port"] in named
    assert {"name": ALLOWED, "value": "True"} in container["env"]


def test_both_start_the_server_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is known to fit in the compose file fits in the cluster."""
    given = flags(POD["containers"][0]["args"])
    assert given == flags(COMPOSE["services"]["vllm"]["command"])
    assert POD["containers"][0]["image"] == COMPOSE["services"]["vllm"]["image"]
    assert_fits(config_of_compose(monkeypatch, tmp_path), given)


def test_the_pages_settings_are_settings(tmp_path: Path) -> None:
    """An operator who copies them starts a node, and they fit the command beside them."""
    blocks = re.findall(r"(?:^ {7}.*\n|^\n)+", PAGE, re.MULTILINE)
    text = next(block for block in blocks if "[engine]" in block)
    told = tomllib.loads(re.sub("^ {7}", "", text, flags=re.MULTILINE))
    told["engine"]["base_digest"] = "0x" + "12" * 32
    config = Config.model_validate(told)
    command = next(block for block in blocks if "vllm serve" in block)
    words = command.replace("\\\n", " ").split()
    assert f"{ALLOWED}=True" in words
    given = {a: b for a, b in zip(words, [*words[1:], ""], strict=True) if a.startswith("--")}
    assert_fits(config, given)


def test_the_pages_entries_for_several_bases_are_settings() -> None:
    """The second example starts a node too, once the digest is filled in."""
    blocks = re.findall(r"(?:^ {7}.*\n|^\n)+", PAGE, re.MULTILINE)
    text = next(block for block in blocks if "[[engine]]" in block)
    told = tomllib.loads(re.sub("^ {7}", "", text, flags=re.MULTILINE).replace("...", "12" * 32))
    first, second = Config.model_validate(told).engines
    assert (first.backend, second.backend, second.name) == ("embedded", "upstream", "llama-8b")


def test_the_page_names_the_margins() -> None:
    """What counts as agreement is one number in code and page."""
    for name, margin in MARGINS.items():
        assert f"| `{name}` | {margin:g} |" in PAGE
