"""docs/protocol.md against a node that runs: its exchange byte for byte, and its routes."""

from __future__ import annotations

import re
from pathlib import Path

from aiohttp import web
from tests.integration.api.harness import running_node
from tests.integration.api.protocol_examples import PAGE, current_page


async def test_the_page_is_what_a_node_says_now(tmp_path: Path) -> None:
    """A change of any byte on the wire must show as a change of the page."""
    page = await current_page(tmp_path)
    assert page == PAGE.read_text(encoding="utf-8"), (
        "the page is not current: python -m tests.integration.api.protocol_examples --write"
    )


async def test_every_route_stands_in_the_page(tmp_path: Path) -> None:
    """A client's author learns of every route, and of none that is not there."""
    async with running_node(tmp_path) as node:
        served = {
            (route.method, route.resource.canonical)
            for route in node.app.router.routes()
            if route.method != "HEAD" and isinstance(route.resource, web.AbstractResource)
        }
    listed = set(re.findall(r"^\| (GET|POST|DELETE) \| `([^`]+)` \|", PAGE.read_text(), re.M))
    assert served == listed
