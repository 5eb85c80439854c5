#!/usr/bin/env python3
"""Measure the gas of the contracts on a fresh anvil, against the goals and the committed figures.

Measures the artifacts that ship in the package (scripts/compile_contracts.py writes them). Owns
the goals and docs/gas.json, the machine-readable figures; docs/gas.md carries the same table
between its markers, and prose around it that this program never touches. gas_parts/scenes.py has
what is measured; a state-changing function that no row names fails the check. Gas is exact and
every key, amount and salt is fixed, so two runs give the same figures to within the few units that
a signature's zero bytes make.

    python benchmarks/gas.py            print the table
    python benchmarks/gas.py --write    also write docs/gas.json and the table in docs/gas.md
    python benchmarks/gas.py --check    exit 1 where a figure is over 1 % above the committed one
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gas_parts.chain import Chain  # noqa: E402  (found from the root)
from benchmarks.gas_parts.scenes import measure  # noqa: E402

FIGURES = ROOT / "docs" / "gas.json"
PAGE = ROOT / "docs" / "gas.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
TOLERANCE = 1.01

# What each figure should be at most; the source of every goal is named in docs/gas.md.
GOALS = {
    "Settlement.claim 100x10, steady, a line": 1_800,
    "Settlement.claim 100x1, steady, a buyer": 14_200,
    "Settlement.distribute, 10 adapters x 20 works, steady, a creator": 11_900,
    "Settlement.openWithAuthorization, first, signer another key": 105_000,
    "Settlement.topUpWithAuthorization, steady": 70_000,
    "workload, settle, a query": 185,
    "workload, all in, a query": 420,
    "Settlement.distribute, 128 burning transfers": 1 << 24,
}

CONTRACTS = ("ContentRegistry", "AdapterRegistry", "Settlement", "NodeDirectory")


def unmeasured(rows: Collection[str]) -> list[str]:
    """Return the state-changing functions, "Contract.function", that no row of the table names."""
    missing = []
    for contract in CONTRACTS:
        artifact = ROOT / "node" / "viz" / "chain" / "artifacts" / f"{contract}.json"
        for entry in json.loads(artifact.read_text())["abi"]:
            if entry["type"] != "function" or entry["stateMutability"] in ("view", "pure"):
                continue
            name = f"{contract}.{entry['name']}"
            if not any(row == name or row.startswith((f"{name},", f"{name} ")) for row in rows):
                missing.append(name)
    return missing


def table(gas: dict[str, float]) -> str:
    lines = ["| what | gas | goal |", "|---|---:|---:|"]
    for name, value in gas.items():
        goal = GOALS.get(name)
        verdict = "" if goal is None else f"<= {goal:,} {'met' if value <= goal else 'NOT MET'}"
        lines.append(f"| {name} | {value:,} | {verdict} |")
    return "\n".join(lines)


def check(gas: dict[str, float]) -> list[str]:
    """Return what is worse than committed, or missing on either side."""
    if not FIGURES.exists():
        return [f"{FIGURES} is missing: run with --write"]
    committed: dict[str, float] = json.loads(FIGURES.read_text())
    faults = [f"{name}: not measured any more" for name in committed if name not in gas]
    faults += [f"{name}: no row measures it" for name in unmeasured(gas)]
    for name, value in gas.items():
        if name not in committed:
            faults.append(f"{name}: not in {FIGURES.name}: run with --write")
        elif value > committed[name] * TOLERANCE:
            faults.append(f"{name}: {value:,} against {committed[name]:,} committed")
    return faults


def write(gas: dict[str, float]) -> None:
    FIGURES.write_text(json.dumps(gas, indent=2) + "\n")
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table(gas)}\n{END}{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with Chain(ROOT) as chain:
        gas = measure(chain)
    print(table(gas))
    if options.write:
        write(gas)
    faults = check(gas) if options.check else []
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
