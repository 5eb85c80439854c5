"""What the distribution promises: a core without the model stack, locks that agree, whole files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "node" / "viz" / "chain" / "artifacts"
CONTRACTS = ("AdapterRegistry", "ContentRegistry", "NodeDirectory", "Settlement", "TestUSD")
# What only a node needs. Importing any of them fails on a creator's or a buyer's machine.
NODE_ONLY = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "safetensors",
    "gguf",
    "ipfshttpclient",
    "solcx",
    "numpy",
    "sentencex",
    "cyclonedx",
)
# What a creator or a buyer imports, and what every command line starts with.
CORE_MODULES = (
    "viz.cli",
    "viz.buyer",
    "viz.settings.config",
    "viz.domain.node_channel",
    "viz.chain",
    "viz.api",
    "viz.cli.creator.license",
    # A custodian: a node without an engine.
    "viz.node",
)

_IMPORT_WITHOUT_NODE_PACKAGES = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is not in the core install", name=name)

sys.meta_path.insert(0, Refuse())
importlib.import_module({module!r})
"""


def _project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def _locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", text, re.MULTILINE))


@pytest.mark.parametrize("module", CORE_MODULES)
def test_the_core_install_needs_no_model_stack(module: str) -> None:
    """A creator registers a work and a buyer pays on a machine without torch."""
    code = _IMPORT_WITHOUT_NODE_PACKAGES.format(blocked=NODE_ONLY, module=module)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_core_lock_has_none_of_the_model_stack() -> None:
    """A core install downloads megabytes, not gigabytes."""
    locked = _locked("core.txt")
    assert "web3" in locked
    assert not {"torch", "transformers", "peft", "bitsandbytes", "numpy", "triton"} & set(locked)


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("core.txt", ()),
        ("node.txt", ("node",)),
        ("intake.txt", ("intake",)),
        ("dev.txt", ("node", "intake", "dev")),
    ],
)
def test_every_requirement_is_locked_at_a_version_it_allows(
    lock: str, extras: tuple[str, ...]
) -> None:
    """`make lock` was run after the last change of pyproject.toml."""
    project = _project()
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    locked = _locked(lock)
    for requirement in map(Requirement, wanted):
        assert requirement.name in locked, f"{requirement} is not in {lock}: run make lock"
        assert requirement.specifier.contains(locked[requirement.name], prereleases=True)


def test_the_locks_agree_with_each_other() -> None:
    """A creator, a node and a developer run the same versions."""
    developer = _locked("dev.txt")
    for name in ("core.txt", "node.txt", "intake.txt"):
        for package, version in _locked(name).items():
            assert developer[package] == version, f"{name} and dev.txt differ in {package}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda p: p.name
)
def test_a_lock_names_hashes_and_no_address(path: Path) -> None:
    """Set-up works with whatever index a machine is configured for, and checks what it gets."""
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^--(?!hash)", text, re.MULTILINE)
    packages = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    for package in filter(str.strip, packages):
        assert "--hash=sha256:" in package, package.splitlines()[0]


def test_the_installed_distribution_is_this_pyproject() -> None:
    """A stale install would run with other requirements than those reviewed."""
    declared = {Requirement(text).name for text in _project()["dependencies"]}
    installed = {
        Requirement(text).name for text in requires("viz-node") or [] if "extra ==" not in text
    }
    assert installed == declared


@pytest.mark.parametrize("name", CONTRACTS)
def test_an_artifact_is_a_deployable_contract(name: str) -> None:
    """The package deploys and calls contracts without a compiler."""
    artifact = json.loads((ARTIFACTS / f"{name}.json").read_text(encoding="utf-8"))
    assert artifact["contractName"] == name
    assert re.fullmatch(r"0x(?:[0-9a-f]{2})+", artifact["bytecode"])
    assert {entry["type"] for entry in artifact["abi"]} >= {"function"}
    assert artifact["runtimeBytes"] <= 24_576


def test_only_the_shipped_contracts_have_artifacts() -> None:
    """A renamed contract leaves no stale artifact behind."""
    assert {path.stem for path in ARTIFACTS.glob("*.json")} == set(CONTRACTS)
