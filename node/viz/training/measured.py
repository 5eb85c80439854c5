"""What a run has measured so far, on the disk: a worker that is stopped does not measure it again.

Owns the file and its identity. Does not know what is measured. Invariants: a value is on the disk
before it is used; values of another recipe, work, base or set of probes are not used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MEASURED_FILE: Final = "measured.json"
Found = TypeVar("Found", bound="DataclassInstance")
Answers = list[list[int]]


class Measured:
    """The measurements of one run; ``identity`` names all that they follow from."""

    def __init__(self, directory: Path, identity: str) -> None:
        self._path, self._identity = directory / MEASURED_FILE, identity
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
        partial = self._path.with_name(f"{MEASURED_FILE}.partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"identity": self._identity, "values": self._values}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


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
