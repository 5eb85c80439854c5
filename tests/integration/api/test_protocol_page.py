"""docs/protocol.md against a node that runs: its exchange byte for byte, routes and members."""

from __future__ import annotations

import re
from pathlib import Path

from aiohttp import web
from tests.integration.api.harness import running_node
from tests.integration.api.protocol_examples import PAGE, current_page
from tests.integration.api.protocol_members import (
    EXCHANGE,
    SECTIONS,
    in_code,
    messages,
    section_of,
    sections,
)
from tests.integration.api.protocol_tables import ADVICE, error_classes

# Their bodies are OpenAI's, a license document's (docs/licenses.md) or TDMRep's.
_OTHERS_FORMS = re.compile(r"^(GET|POST) /(v1|license|\.well-known)/", re.MULTILINE)
_OPENAI_STREAM = "data: [DONE]"


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


def test_every_member_of_every_message_is_named_where_the_message_is_told() -> None:
    """A client in another language can be written from the page: no member is in the code alone."""
    named = {number: in_code(text) for number, text in sections(PAGE.read_text()).items()}
    found = messages()
    lacking = {
        f"{kind.__name__} (section {section_of(kind)})": sorted(lost)
        for kind, members in found.items()
        if (lost := members - named[section_of(kind)])
    }
    assert not lacking, f"name these members in docs/protocol.md: {lacking}"
    assert set(SECTIONS) <= {kind.__name__ for kind in found}, "a row for no message"


def test_every_member_in_an_example_is_named_before_the_examples() -> None:
    """An example shows a value, not its meaning; and some answers are not made of messages."""
    parts = sections(PAGE.read_text())
    named = set().union(*(in_code(text) for number, text in parts.items() if number != EXCHANGE))
    lacking = {}
    for step in re.split(r"^### ", parts[EXCHANGE], flags=re.MULTILINE)[1:]:
        if _OTHERS_FORMS.search(step) or _OPENAI_STREAM in step:
            continue
        if lost := set(re.findall(r'"(\w+)": ?', step)) - named:
            lacking[step.partition("\n")[0]] = sorted(lost)
    assert not lacking, f"say in sections 1 to 16 of docs/protocol.md what these mean: {lacking}"


def test_every_error_has_its_advice() -> None:
    """Each code has a row in ADVICE (protocol_tables.py): what a client does about it."""
    assert {kind.code for kind in error_classes()} == set(ADVICE)
