"""The daemon's log has one form, whoever speaks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from viz import log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, known = list(root.handlers), root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**known)


def test_what_libraries_log_is_json_too(capfd: pytest.CaptureFixture[str]) -> None:
    """A trace of aiohttp or asyncio is one line that a collector reads, with the logger's name."""
    log.configure("info", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling %s", "a request")
    logging.getLogger("asyncio").warning("slow", extra={"password": "p"})
    logging.getLogger("quiet").info("not told")
    structlog.get_logger().info("ours", secret="s")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("Error handling a request", "error"),
        ("slow", "warning"),
        ("ours", "info"),
    ]
    assert (
        lines[0]["logger"] == "aiohttp.server"
        and "ValueError: two\nlines" in (lines[0]["exception"])
    )
    assert lines[2]["secret"] == "***"


def test_on_a_console_they_read_alike(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")
    logging.getLogger("asyncio").warning("slow")
    structlog.get_logger().warning("ours")
    theirs, ours = capfd.readouterr().err.splitlines()
    assert theirs.split()[1] == ours.split()[1] == "[warning"


@pytest.mark.parametrize("form", ["console", "json"])
def test_no_stranger_drives_the_operator_s_terminal(
    form: Literal["json", "console"], capfd: pytest.CaptureFixture[str]
) -> None:
    """A URL of the directory that retitles, clears or forges lines is only shown, wherever it is
    logged: as a value, in the event, in a traceback, by us or by a library."""
    log.configure("info", form)
    evil = "http://b\x1b]0;owned\x07\x1b[2J\x9b2J\r\n2026 [info] forged\u202e\ud800"
    try:
        raise ValueError(evil.replace("\r\n", ""))  # a traceback keeps its lines
    except ValueError:
        structlog.get_logger().warning(evil, url=evil, listed=[evil], exc_info=True)
        logging.getLogger("aiohttp").warning("bad %s", evil, exc_info=True)
    said = capfd.readouterr().err
    assert said.count("\\x1b" if form == "console" else "\\u001b") >= 10
    assert all(each.isprintable() or each == "\n" for each in said)
    assert not any(line.startswith("2026 [info] forged") for line in said.splitlines())
