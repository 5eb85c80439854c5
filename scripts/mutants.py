"""Break the contracts on purpose, one small change at a time, and see whether their tests notice.

Owns the list of mutants (``mutants.toml`` beside it is the list, this file runs it) and the report
``docs/mutants.md``. Knows nothing of deployment. A mutant is an exact piece of source text and what
it becomes; the text must occur exactly once, so a list that no longer fits the sources fails.

Each mutant runs in a copy of ``contracts/`` in a temporary folder, against the test files that
name its function, fail-fast. It is *killed* when a test fails, *survived* when all pass, and
*broken* when it does not compile, which is an error of the list. Results are kept under ``build/``
keyed by the mutant and by every source and test they came from, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CONTRACTS: Final = ROOT / "contracts"
REPORT: Final = ROOT / "docs" / "mutants.md"
CACHE: Final = ROOT / "build" / "mutants.json"
RUN_TIMEOUT_S: Final = 900
LEFT_OUT: Final = frozenset({"node_modules", "out", "cache"})

# Histories are short here: a mutant that only a long one finds deserves a test of its own.
BOUNDS: Final = {
    "FOUNDRY_FUZZ_RUNS": "64",
    "FOUNDRY_INVARIANT_RUNS": "4",
    "FOUNDRY_INVARIANT_DEPTH": "40",
}


def forge() -> Path:
    """Return forge's own binary: npm's wrapper around it exits 0 whatever the tests say."""
    found = next(CONTRACTS.glob("node_modules/@foundry-rs/forge-*/bin/forge"), None)
    if found is None:
        raise FileNotFoundError("forge is not installed: run scripts/setup")
    return found


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change. ``function`` is the name that a test file must mention to be run against it."""

    file: str
    function: str
    old: str
    new: str
    why: str
    survives: str
    files: tuple[str, ...]

    @property
    def contract(self) -> str:
        """Return the contract that the changed file is part of."""
        name = Path(self.file).stem
        return name if name.endswith("Registry") else "Settlement"

    @property
    def tests(self) -> tuple[str, ...]:
        """Return the test files to run: those that name the function, of the files listed if any.

        A list is there to save time where nearly every file names the function: compiling the
        tests is most of a run.
        """
        folder = (
            CONTRACTS / "test" / ("settlement" if self.contract == "Settlement" else "registries")
        )
        named = re.compile(self.function, re.IGNORECASE)
        found = (
            path
            for path in sorted(folder.glob("*.t.sol"))
            if (not self.files or path.name.removesuffix(".t.sol") in self.files)
            and named.search(path.read_text())
        )
        return tuple(str(path.relative_to(CONTRACTS)) for path in found)

    @property
    def bench(self) -> tuple[str, bool]:
        """Return what its copy of the sources must have: whose they are, and whether the twin."""
        return self.contract, any("Plain" in (CONTRACTS / path).read_text() for path in self.tests)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant: killed (by which test), survived or broken, in how many seconds."""

    status: str
    by: str
    seconds: float


def load() -> list[Mutant]:
    """Read the list."""
    listed = tomllib.loads((ROOT / "scripts" / "mutants.toml").read_text())
    return [
        Mutant(
            file=group["file"],
            function=entry["function"],
            old=entry["old"],
            new=entry["new"],
            why=entry["why"],
            survives=entry.get("survives", ""),
            files=tuple(entry.get("files", group.get("files", ()))),
        )
        for group in listed["contract"]
        for entry in group["mutant"]
    ]


def check(mutants: list[Mutant]) -> None:
    """Raise ValueError where a mutant's text does not occur exactly once, or no test names it."""
    for mutant in mutants:
        count = (CONTRACTS / mutant.file).read_text().count(mutant.old)
        if count != 1:
            raise ValueError(f"{mutant.file}: {mutant.old!r} occurs {count} times, not once")
        if not mutant.tests:
            raise ValueError(f"{mutant.file}: no test names {mutant.function}")


def fingerprint(mutant: Mutant) -> str:
    """Return a key that changes with the mutant, the contracts and the tests it runs against."""
    digest = hashlib.sha256(repr((mutant.file, mutant.old, mutant.new)).encode())
    paths = sorted(
        path
        for path in CONTRACTS.rglob("*.sol")
        if not LEFT_OUT & set(path.relative_to(CONTRACTS).parts)
        and (not path.name.endswith(".t.sol") or str(path.relative_to(CONTRACTS)) in mutant.tests)
        and (mutant.contract == "Settlement" or not touches_settlement(path))
    )
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def touches_settlement(path: Path) -> bool:
    """Tell whether a source belongs to Settlement, which the registries do not know."""
    parts = set(path.relative_to(CONTRACTS).parts)
    return "Settlement" in path.name or bool({"settlement", "libraries", "royalty_bugs"} & parts)


class Bench:
    """A copy of the sources in a folder of its own, in which mutants come and go.

    It stays for the whole run, so that forge compiles again only what a mutant changes, and has
    only the test files that will run, and Settlement's twin only where they need it: that inherits
    from Settlement, and compiles as often.
    """

    def __init__(self, folder: Path, contract: str, twin: bool, tests: frozenset[str]) -> None:
        self._folder = folder
        for path in CONTRACTS.rglob("*"):
            relative = path.relative_to(CONTRACTS)
            if not path.is_file() or LEFT_OUT & set(relative.parts):
                continue
            if contract != "Settlement" and path.suffix == ".sol" and touches_settlement(path):
                continue
            if path.name.endswith(".t.sol") and str(relative) not in tests:
                continue
            if "twin" in relative.parts and not twin:
                continue
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / relative)
        settings = (folder / "foundry.toml").read_text()
        settings = settings.replace('"./solc.js"', f'"{CONTRACTS / "solc.js"}"')
        settings = settings.replace("=node_modules/", f"={CONTRACTS / 'node_modules'}/")
        settings = re.sub(r"(?m)^libs = .*\n", "", settings)
        # To the same behaviour, sooner. Settlement's stack is too deep for the old pipeline.
        if contract == "Settlement":
            settings = re.sub(r"(?m)^optimizer_runs = .*$", "optimizer_runs = 1", settings)
        else:
            settings = re.sub(r"(?m)^via_ir = .*$", "via_ir = false", settings)
            settings = re.sub(r"(?m)^optimizer = .*$", "optimizer = false", settings)
        (folder / "foundry.toml").write_text(settings)

    def judge(self, mutant: Mutant) -> Result:
        """Run the mutant's tests with the mutant in place, and take it out again."""
        target = self._folder / mutant.file
        unbroken = target.read_text()
        target.write_text(unbroken.replace(mutant.old, mutant.new))
        try:
            return self.run(mutant.tests)
        finally:
            target.write_text(unbroken)

    def run(self, tests: tuple[str, ...]) -> Result:
        """Run some test files; *survived* means that they pass."""
        started = time.monotonic()
        chosen = tests[0] if len(tests) == 1 else "{" + ",".join(tests) + "}"
        try:
            done = subprocess.run(
                [str(forge()), "test", "--fail-fast", "--match-path", chosen],
                cwd=self._folder,
                env=os.environ | BOUNDS,
                capture_output=True,
                text=True,
                timeout=RUN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Result("killed", "ran out of time", time.monotonic() - started)
        seconds = time.monotonic() - started
        if done.returncode == 0:
            ran = re.search(r"[1-9]\d* tests passed", done.stdout)
            return Result("survived" if ran else "broken", "" if ran else "no test ran", seconds)
        failed = re.search(r"\[FAIL[^\n]*\] (\w+)\(", done.stdout)
        if failed is None:
            return Result("broken", (done.stdout + done.stderr)[-2000:], seconds)
        return Result("killed", failed.group(1), seconds)


def report(results: list[tuple[Mutant, Result]]) -> str:
    """Return the page: the count, the survivors with their reasons, every mutant."""
    count = Counter(result.status for _, result in results)
    lines = [
        "# Mutants of the contracts",
        "",
        "Written by `python scripts/mutants.py` (`make mutants`) from `scripts/mutants.toml`.",
        "Each mutant changes one place and runs against the test files that name its function.",
        "",
        f"{len(results)} mutants: {count['killed']} killed, {count['survived']} survived, "
        f"{count['not run']} not run since their sources last changed.",
        "",
        "## Survivors",
        "",
    ]
    survivors = [mutant for mutant, result in results if result.status == "survived"]
    lines += [f"- `{one_line(m.old)}` -> `{one_line(m.new)}`: {m.survives}" for m in survivors]
    lines += ["None.", ""] if not survivors else [""]
    for contract in sorted({mutant.contract for mutant, _ in results}):
        lines += [f"## {contract}", "", "| function | change | what it would mean | killed by |"]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {m.function} | `{one_line(m.old)}` -> `{one_line(m.new) or '(removed)'}` | {m.why} "
            f"| {r.by or r.status} |"
            for m, r in results
            if m.contract == contract
        ]
        lines.append("")
    return "\n".join(lines)


def one_line(source: str) -> str:
    """Return source text as it fits a table cell."""
    return re.sub(r"\s+", " ", source).strip().replace("|", "\\|")


def main() -> int:
    """Run the mutants; exit 1 where one survives without a reason, or the list is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only where file or function has this")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--report", action="store_true", help="only write what is known already")
    options = parser.parse_args()

    mutants = load()
    chosen = [m for m in mutants if options.only in m.file or options.only in m.function]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.contract:16} {mutant.function:20} {one_line(mutant.old)[:70]}")
        print(f"{len(chosen)} mutants")
        return 0

    check(chosen)
    CACHE.parent.mkdir(exist_ok=True)
    known: dict[str, list[str | float]] = json.loads(CACHE.read_text()) if CACHE.exists() else {}
    pending = [m for m in chosen if not options.report and fingerprint(m) not in known]
    number = 0
    for contract, twin in sorted({mutant.bench for mutant in pending}):
        group = [mutant for mutant in pending if mutant.bench == (contract, twin)]
        with tempfile.TemporaryDirectory(prefix="viz-mutants-") as name:
            tests = frozenset(test for mutant in group for test in mutant.tests)
            bench = Bench(Path(name), contract, twin, tests)
            unbroken = bench.run(tuple(sorted(tests)))
            if unbroken.status != "survived":
                print(f"{contract}: fails without any mutant: {unbroken.by}", file=sys.stderr)
                return 1
            for mutant in group:
                result = bench.judge(mutant)
                number += 1
                head = f"{number}/{len(pending)} {result.status:8} {result.seconds:5.0f} s"
                by = result.by if result.status == "killed" else ""
                print(f"{head}  {mutant.function}: {one_line(mutant.new)[:60]}  {by}", flush=True)
                if result.status == "broken":
                    print(result.by, file=sys.stderr)
                    return 1
                known[fingerprint(mutant)] = [result.status, result.by, result.seconds]
                CACHE.write_text(json.dumps(known))

    judged = [(mutant, known.get(fingerprint(mutant))) for mutant in mutants]
    results = [
        (m, Result("not run", "", 0.0) if r is None else Result(str(r[0]), str(r[1]), float(r[2])))
        for m, r in judged
    ]
    REPORT.write_text(report(results))
    print(f"wrote {REPORT.relative_to(ROOT)}")
    unexplained = [m for m, r in results if r.status == "survived" and not m.survives]
    for mutant in unexplained:
        print(f"survived: {mutant.file} {mutant.function}: {mutant.why}", file=sys.stderr)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
