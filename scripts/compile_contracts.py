#!/usr/bin/env python3
"""Compile the contracts into the JSON artifacts that ship inside the Python package.

Owns the list of shipped contracts and the artifact format. The compiler settings are those of
``contracts/foundry.toml``, so forge and the package never disagree. Invariant: with ``--check``
it changes nothing and exits 1 unless every artifact equals what the sources compile to.

    python scripts/compile_contracts.py            write node/viz/chain/artifacts/*.json
    python scripts/compile_contracts.py --check    compare only
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import solcx
from solcx.exceptions import SolcError
from solcx.wrapper import get_solc_version

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
ARTIFACTS = ROOT / "node" / "viz" / "chain" / "artifacts"
SHIPPED = {
    "AdapterRegistry": "AdapterRegistry.sol",
    "ContentRegistry": "ContentRegistry.sol",
    "NodeDirectory": "NodeDirectory.sol",
    "Settlement": "Settlement.sol",
    "TestUSD": "dev/TestUSD.sol",
}
# EIP-170; anvil and every live chain refuse to deploy more.
RUNTIME_LIMIT_BYTES = 24_576
_IMPORT = re.compile(r"""^\s*import\s+(?:[^"';]*?\sfrom\s+)?["']([^"']+)["']""", re.MULTILINE)


def foundry_settings() -> tuple[dict[str, Any], dict[str, str]]:
    """Return (solc settings without the output selection, remappings) of foundry.toml."""
    with (CONTRACTS / "foundry.toml").open("rb") as file:
        profile = tomllib.load(file)["profile"]["default"]
    metadata = {
        "appendCBOR": profile.get("cbor_metadata", True),
        "bytecodeHash": profile.get("bytecode_hash", "ipfs"),
    }
    settings: dict[str, Any] = {
        "evmVersion": profile["evm_version"],
        "metadata": metadata,
        "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
        "remappings": profile["remappings"],
        "viaIR": profile.get("via_ir", False),
    }
    remappings = dict(entry.split("=", 1) for entry in profile["remappings"])
    return settings, remappings


def source_closure(name: str, remappings: dict[str, str]) -> dict[str, str]:
    """Return the text of a source and of everything it imports, by path under contracts/."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        path = CONTRACTS / current
        if not path.is_file():
            hint = "run scripts/setup" if "node_modules" in current else "it does not exist"
            raise SystemExit(f"compile: contracts/{current} is imported but missing: {hint}")
        found[current] = path.read_text(encoding="utf-8")
        for target in _IMPORT.findall(found[current]):
            waiting.append(_resolve(target, path.parent, remappings))
    return found


def _resolve(target: str, folder: Path, remappings: dict[str, str]) -> str:
    if target.startswith("."):
        return (folder / target).resolve().relative_to(CONTRACTS).as_posix()
    for prefix, replacement in remappings.items():
        if target.startswith(prefix):
            return replacement + target.removeprefix(prefix)
    return target


def find_compiler() -> Path:
    """Return an installed solc of the pinned version, else the wrapper around npm's."""
    wanted = json.loads((CONTRACTS / "package.json").read_text())["dependencies"]["solc"]
    installed = shutil.which("solc")
    if installed and get_solc_version(Path(installed)).base_version == wanted:
        return Path(installed)
    if not (CONTRACTS / "node_modules" / "solc").is_dir():
        raise SystemExit("compile: no Solidity compiler here; run scripts/setup")
    return CONTRACTS / "solc.js"


def compile_all() -> dict[str, dict[str, Any]]:
    """Compile every shipped contract; return the artifacts by contract name."""
    settings, remappings = foundry_settings()
    closures = {name: source_closure(path, remappings) for name, path in SHIPPED.items()}
    sources = {path: text for closure in closures.values() for path, text in closure.items()}
    wanted = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "metadata"]
    request = {
        "language": "Solidity",
        "sources": {path: {"content": sources[path]} for path in sorted(sources)},
        "settings": {
            **settings,
            "outputSelection": {path: {name: wanted} for name, path in SHIPPED.items()},
        },
    }
    try:
        output = solcx.compile_standard(request, solc_binary=find_compiler())
    except SolcError as error:
        raise SystemExit(f"compile: the contracts do not compile\n{error.message}") from error
    return {
        name: _artifact(name, output["contracts"][path][name], settings, closures[name])
        for name, path in SHIPPED.items()
    }


def _artifact(
    name: str, compiled: dict[str, Any], settings: dict[str, Any], closure: dict[str, str]
) -> dict[str, Any]:
    runtime_bytes = len(compiled["evm"]["deployedBytecode"]["object"]) // 2
    if runtime_bytes > RUNTIME_LIMIT_BYTES:
        raise SystemExit(f"compile: {name} has {runtime_bytes} bytes; {RUNTIME_LIMIT_BYTES} fit")
    bytecode = compiled["evm"]["bytecode"]["object"]
    if not re.fullmatch(r"[0-9a-f]+", bytecode):
        raise SystemExit(f"compile: {name} is abstract or has an unlinked library")
    hasher = hashlib.sha256()
    for path in sorted(closure):
        hasher.update(f"{path}\0{len(closure[path])}\0{closure[path]}".encode())
    return {
        "contractName": name,
        "sourceName": SHIPPED[name],
        "compiler": json.loads(compiled["metadata"])["compiler"]["version"],
        "settings": settings,
        "sourceHash": hasher.hexdigest(),
        "runtimeBytes": runtime_bytes,
        "abi": compiled["abi"],
        "bytecode": f"0x{bytecode}",
    }


def render(artifact: dict[str, Any]) -> str:
    """Return the artifact as JSON with one line a member and one an ABI entry: small, diffable."""
    lines = []
    for key, value in artifact.items():
        if key == "abi":
            entries = ",\n".join("  " + json.dumps(entry, sort_keys=True) for entry in value)
            lines.append(f' "abi": [\n{entries}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, sort_keys=True)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    """Write or check the artifacts; return the exit code."""
    parser = argparse.ArgumentParser(description="Compile the contracts into the Python package.")
    parser.add_argument(
        "--check", action="store_true", help="compare with the sources, write nothing"
    )
    check = parser.parse_args().check
    wrong = []
    for name, artifact in compile_all().items():
        path = ARTIFACTS / f"{name}.json"
        text = render(artifact)
        current = path.read_text(encoding="utf-8") if path.is_file() else None
        if current != text:
            wrong.append(name)
            if not check:
                ARTIFACTS.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        print(f"{name:<16} {artifact['runtimeBytes']:>6} bytes of code, {len(text):>6} in the file")
    if check and wrong:
        print(
            f"compile: {', '.join(wrong)} differ from the sources; run: make artifacts",
            file=sys.stderr,
        )
        return 1
    print("artifacts match the sources" if not wrong else f"wrote {', '.join(wrong)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
