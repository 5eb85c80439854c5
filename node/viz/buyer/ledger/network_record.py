"""Store what a buyer knows about nodes and what it spent each day, for all its processes.

Owns one file beside the channels. It holds no money: that is in the channels' ledgers. Invariants:
two processes never lose each other's changes; the day's sum never falls while the file exists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from viz.domain.units import Address, Units
from viz.errors import BooksMismatch, ConfigError, InvalidRequest, StoreError
from viz.private import make_private_file, make_private_folder
from viz.process_lock import ProcessLock
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader, parse_json

FILE: Final = "network.json"
LOCK: Final = "network.lock"
PROXY: Final = "network-proxy.lock"
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_URLS: Final = 64
MAX_NODES: Final = 1_024
MAX_NAMES: Final = 1_024
DAYS_KEPT: Final = 400
# The weight of the newest answer in the smoothed history of a node.
NEWEST: Final = 0.2


@dataclass(frozen=True, slots=True)
class NodeHistory:
    """How a node behaved towards this buyer.

    ``first_ms`` is the smoothed time to the first text, 0 if no answer has begun yet. ``failure``
    is the smoothed share of answers that it did not finish. ``failed_at_s`` is the time of its
    latest failure, ``url`` its latest URL.
    """

    first_ms: float = 0.0
    failure: float = 0.0
    failed_at_s: int = 0
    url: str = ""

    def answered(self, first_ms: float) -> Self:
        """Return the history after an answer that was finished."""
        known = self.first_ms or first_ms
        return replace(
            self,
            first_ms=known + NEWEST * (first_ms - known),
            failure=self.failure * (1 - NEWEST),
        )

    def failed(self, now_s: int) -> Self:
        """Return the history after an answer that was refused or broke off."""
        return replace(self, failure=self.failure + NEWEST * (1 - self.failure), failed_at_s=now_s)


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """The content of the file.

    ``names`` says what each name meant when it was used: an adapter's id, or "@" and the digest of
    a base model. ``held`` has, by a name of the request, the day and what the request may still
    cost, of requests under way and of those whose process was killed.
    """

    urls: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[Address, NodeHistory] = field(default_factory=dict)
    days: Mapping[str, Units] = field(default_factory=dict)
    held: Mapping[str, tuple[str, Units]] = field(default_factory=dict)

    def knowing(self, url: str) -> Self:
        """Return the record with a URL that the buyer named, put first."""
        return replace(self, urls=(url, *(each for each in self.urls if each != url))[:MAX_URLS])

    def meaning(self, names: Sequence[str], model: str) -> Self:
        """Return the record after names that it does not have were used for a model."""
        new = {name: model for name in names if name not in self.names}
        kept = dict(list(self.names.items())[-MAX_NAMES + len(new) :])
        return replace(self, names={**kept, **new})

    def with_node(self, node: Address, history: NodeHistory) -> Self:
        """Return the record with a node's new history, without the oldest above a limit."""
        others = {key: each for key, each in self.nodes.items() if key != node}
        kept = dict(list(others.items())[-MAX_NODES + 1 :])
        return replace(self, nodes={**kept, node: history})

    def spending(self, day: str, units: Units) -> Self:
        """Return the record after ``units`` more were spent on a day."""
        days = {**self.days, day: self.days.get(day, 0) + units}
        return replace(self, days=dict(sorted(days.items())[-DAYS_KEPT:]))

    def adding(self, units: Units) -> Self:
        """Return the record after ``units`` more were spent on the latest day that it knows."""
        known = [*self.days, *(day for day, _ in self.held.values())]
        return self.spending(max(known), units) if known else self

    def held_on(self, day: str) -> dict[str, tuple[str, Units]]:
        """Return what requests hold that began on ``day``, later, or the day before.

        What began earlier has ended, or its process was killed.
        """
        first = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
        return {name: each for name, each in self.held.items() if each[0] >= first}

    def holding(self, name: str, day: str, units: Units) -> Self:
        """Return the record while a request that began on ``day`` may still cost ``units``."""
        held = {key: each for key, each in self.held_on(day).items() if key != name}
        return replace(self, held=held | {name: (day, units)} if units > 0 else held)

    def to_json(self) -> Json:
        return {
            "urls": list(self.urls),
            "names": dict(self.names),
            "nodes": {
                node: {
                    "firstMs": round(each.first_ms, 1),
                    "failure": round(each.failure, 4),
                    "failedAt": each.failed_at_s,
                    "url": each.url,
                }
                for node, each in self.nodes.items()
            },
            "days": {day: str(units) for day, units in self.days.items()},
            "held": {
                name: {"day": day, "units": str(units)} for name, (day, units) in self.held.items()
            },
        }

    @classmethod
    def from_json(cls, value: Json) -> Self:
        reader = Reader(value, FILE)
        names, nodes, days = (reader.child(each) for each in ("names", "nodes", "days"))
        held = reader.optional("held", reader.child)  # records of before have none
        return cls(
            tuple(str(each)[:512] for each in reader.array("urls", MAX_URLS)),
            {name: names.text(name, 256) for name in value["names"]},
            {Address(node): _history(nodes.child(node)) for node in value["nodes"]},
            {day: days.units(day) for day in value["days"]},
            {} if held is None else {name: _held(held.child(name)) for name in value["held"]},
        )


def _held(reader: Reader) -> tuple[str, Units]:
    return reader.text("day", 10), reader.units("units")


def _history(reader: Reader) -> NodeHistory:
    return NodeHistory(
        reader.number("firstMs", 1e9),
        reader.number("failure", 1),
        reader.integer("failedAt", JSON_INTEGER_MAX),
        reader.text("url", 512),
    )


RecordChange = Callable[[NetworkRecord], NetworkRecord]


class NetworkFile:
    """The record on disk, shared by the buyer's processes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path, self._lock = home / FILE, home / LOCK

    def read(self) -> NetworkRecord:
        """Return the record, empty if there is no file; raise BooksMismatch if it is unreadable."""
        try:
            return NetworkRecord.from_json(parse_json(self._path.read_bytes(), max_bytes=MAX_BYTES))
        except FileNotFoundError:
            return NetworkRecord()
        except (OSError, InvalidRequest) as error:
            raise BooksMismatch(
                f"{self._path} cannot be read: restore or remove it. It holds no money; without it "
                "nodes are measured anew, and what was spent today counts from 0"
            ) from error

    def change(self, change: RecordChange) -> NetworkRecord:
        """Change the record under a lock between processes; raise StoreError, BooksMismatch."""
        try:
            with self._held():
                after = change(self.read())
                temporary = self._path.with_suffix(".tmp")
                make_private_file(temporary)
                temporary.write_text(json.dumps(after.to_json()), encoding="utf-8")
                temporary.replace(self._path)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from error
        return after

    @contextmanager
    def held_by_proxy(self) -> Iterator[None]:
        """Hold the lock of the only network proxy in this folder; raise ConfigError if one runs.

        The proxy's socket is beside the record, where the commands look for it.
        """
        make_private_folder(self._path.parent)
        lock = ProcessLock.take(self._path.with_name(PROXY))
        if lock is None:
            raise ConfigError(
                f"a proxy without --node runs already for {self._path.parent}: use that one, or "
                "another --data-dir"
            )
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _held(self) -> Iterator[None]:
        make_private_folder(self._path.parent)
        lock = ProcessLock.wait(self._lock)
        try:
            yield
        finally:
            lock.release()


def held_at(home: Path, now_s: int) -> Units:
    """Return what answers under way, or whose process was killed, hold; raise BooksMismatch."""
    held = NetworkFile(home).read().held_on(day_of(now_s))
    return sum(units for _, units in held.values())


def day_of(now_s: int) -> str:
    """Return the UTC date of a time, as text."""
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d")
