"""Store measurements on disk, so that a worker that was stopped does not repeat them.

Owns the files and their identities. The measurements of one run are in its folder; those of the
base alone (its answers to general questions) are beside the base, for every run. Invariants: a
value is on the disk before it is used; values of another recipe, work, base, environment or set of
probes are not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from eth_utils.crypto import keccak

from viz.private import make_private_folder, write_private

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MEASURED_FILE: Final = "measured.json"
_OF_BASES: Final = "general"
Found = TypeVar("Found", bound="DataclassInstance")
Answers = list[list[int]]


class Measured:
    """Measurements in one file; ``identity`` names everything that they depend on."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._values: dict[str, Any] = {}
        try:
            kept = json.loads(self._path.read_text("utf-8"))
            if kept["identity"] == identity:
                self._values = dict(kept["values"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or torn by a power cut: measured again

    def once(
        self, name: str, kind: type[Found], measure: Callable[[], Found | None]
    ) -> Found | None:
        """Return the value of this name, measured now if it was not yet."""
        if name not in self._values:
            found = measure()
            self.keep(name, None if found is None else asdict(found))
        value = self._values[name]
        if value is None:
            return None
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})

    def batches(self, name: str) -> MutableMapping[int, Answers]:
        """Return the answers of this name by their batch; what is put there is kept at once."""
        return _Batches(self, name)

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def keep(self, name: str, value: Any) -> None:
        """Write the value to the disk, whole or not at all."""
        self._values[name] = value
        whole = {"identity": self._identity, "values": self._values}
        write_private(self._path, json.dumps(whole).encode())


def of_run(directory: Path, identity: str) -> Measured:
    """Return the stored measurements of the run in ``directory``."""
    return Measured(directory / MEASURED_FILE, identity)


def of_base(cache_dir: Path, identity: str) -> Measured:
    """Return the stored measurements of a base alone, shared by all runs.

    ``identity`` names base, questions and environment, so simultaneous runs write the same values.
    """
    directory = cache_dir / _OF_BASES
    make_private_folder(directory)
    return Measured(directory / f"{keccak(identity.encode()).hex()[:32]}.json", identity)


class _Batches(MutableMapping[int, Answers]):
    def __init__(self, measured: Measured, name: str) -> None:
        self._measured, self._name = measured, name

    def _all(self) -> dict[str, Answers]:
        return self._measured.get(self._name) or {}

    def __getitem__(self, start: int) -> Answers:
        return self._all()[str(start)]

    def __setitem__(self, start: int, answers: Answers) -> None:
        self._measured.keep(self._name, {**self._all(), str(start): answers})

    def __delitem__(self, start: int) -> None:
        self._measured.keep(self._name, {k: v for k, v in self._all().items() if k != str(start)})

    def __iter__(self) -> Iterator[int]:
        return map(int, self._all())

    def __len__(self) -> int:
        return len(self._all())
