"""What every test shares. Unit tests may not open a network connection: they fail when they try."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

UNIT = Path(__file__).parent / "unit"

# A test's outcome must not depend on how busy the machine is, so Hypothesis has no deadline.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("check", _COMMON, derandomize=True, print_blob=True)
settings.register_profile("fuzz", _COMMON, max_examples=1_000, print_blob=True)
settings.load_profile(os.environ.get("VIZ_HYPOTHESIS", "check"))


def pytest_configure() -> None:
    """End as at Ctrl-C when terminated: print the failures so far, and stop what fixtures began."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_network_in_unit_tests(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not request.path.is_relative_to(UNIT):
        return

    def refuse(_socket: socket.socket, address: object, *_rest: object) -> None:
        raise AssertionError(f"a unit test opened a socket to {address!r}: make it an integration")

    for method in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, method, refuse)


@pytest.fixture(autouse=True)
def _commands_leave_the_logs_alone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that a test runs in its process must not send that process's logs to its output."""
    if request.path.name != "test_log.py":
        monkeypatch.setattr("viz.log.configure", lambda *_given: None)
