"""Write the daemon's log: structured lines with request and channel ids, and never a secret.

Owns the structlog set-up. Modules log through ``structlog.get_logger()`` and bind ids with
``structlog.contextvars``; values under a name that smells of a secret are blotted out here, so
that one careless call cannot leak a key. What libraries log comes in the same form. Strangers'
texts reach the log, so control characters are escaped here for all: none drives a terminal or
begins a line of its own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog

_SECRET_NAMES = ("password", "secret", "private", "authorization", "token_value", "access_token")
_LINES = ("exception", "stack")


def _blot_secrets(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name in event:
        if any(part in name.lower() for part in _SECRET_NAMES):
            event[name] = "***"
    return event


def _show_controls(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Escape what a terminal does not print; a traceback and a stack keep their lines."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            kept = "\n\t" if name in _LINES else ""
            event[name] = "".join(
                each if each.isprintable() or each in kept else repr(each)[1:-1] for each in value
            )
    return event


_SHARED: Final = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
_END: Final = (structlog.processors.format_exc_info, _blot_secrets)


def configure(level: str = "info", form: Literal["json", "console"] = "console") -> None:
    """Send structured logs to standard error at ``level``; libraries only from warnings on."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    # JSON escapes by itself, and must not do so twice.
    end = _END if form == "json" else (*_END, _show_controls)
    structlog.configure(
        processors=[*_SHARED, *end, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *end,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
