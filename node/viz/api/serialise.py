"""Convert the services' reports to JSON: hashes as hexadecimal, large integers as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any

from viz.domain.notices import NoticeSummary
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.units import hex_of
from viz.protocol.wire import JSON_INTEGER_MAX, Json
from viz.services.upkeep.supervision import Supervisor


def plain(value: Any) -> Any:
    """Convert a report to JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(found) for name, found in asdict(value).items()}
    if isinstance(value, dict):
        return {str(key): plain(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        return hex_of(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > JSON_INTEGER_MAX:
        return str(value)
    return value


def failing_json(supervisor: Supervisor) -> Json:
    """Convert the node's failing loops to the JSON that the operator gets."""
    return {
        name: {"since": found.since_s, "error": found.error}
        for name, found in supervisor.failing.items()
    }


def training_json(record: TrainingRecord, standing: Mapping[str, Any]) -> Json:
    """Convert a training run to the JSON that the operator gets.

    ``standing`` is the last event of a running training, which is newer than the record.
    """
    return {
        "id": record.training_id,
        "state": record.state,
        "request": dict(record.request),
        "progress": dict(standing or record.progress),
        "result": dict(record.result),
        "error": record.error,
        "createdAt": record.created_at,
        "updatedAt": record.updated_at,
    }


def notices_json(noticed: NoticeSummary) -> Json:
    """Return what an adapter or a work says of the notices about it."""
    return {
        "notices": {
            "open": noticed.open,
            "kind": noticed.kind,
            "receivedAt": noticed.received_at,
        }
    }
