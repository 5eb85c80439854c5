"""Describe the progress of a training run in words."""

from __future__ import annotations

from typing import Any, Final

from viz.domain.display import counted

NOT_MEASURED: Final = "not measured"
_SOLD: Final = {
    "waiting": ", not published yet",
    "registered": ", not on offer yet",
    "refused": ", not on sale",
}


def says(event: dict[str, Any]) -> str:
    """Return an event in words, or an empty text if there is nothing to say."""
    match event.get("event"):
        case "started":
            return f"{counted(event['rows'], 'row')}, {counted(event['steps'], 'step')}"
        case "step":
            return f"step {event['step']} of {event['steps']}, loss {event['loss']:.3f}"
        case "evaluated":
            return f"step {event['step']}, {of(event['right'], event['asked'])} right"
        case "measuring":
            return f"measuring {event['what']}"
        case "publishing":
            return f"publishing: {event['state']}"
        case "end":
            return str(event["state"])
    return ""


def stands(found: dict[str, Any]) -> str:
    """Return a run's state in words: its right answers, its last step, or why it ended."""
    recall = found["result"].get("metrics", {}).get("recall")
    if recall:
        publication = found["result"].get("publication") or {}
        sold = _SOLD.get(publication.get("state", ""), "")
        return f"{of(recall['adapter'], recall['asked'])} right{sold}"
    return says(found["progress"]) or found["error"]


def of(right: int, asked: int) -> str:
    """Return "``right`` of ``asked``", or say that nothing was measured."""
    return f"{right} of {asked}" if asked else NOT_MEASURED
