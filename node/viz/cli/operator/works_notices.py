"""Tell an operator the notices on works before it licenses or trains them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from viz.cli.console import err, plain
from viz.cli.noticed import effect
from viz.cli.operator.running_node import OperatorClient
from viz.domain.display import moment
from viz.errors import NodeUnreachable, VizError


async def say_notices(operator: OperatorClient, works: Collection[int]) -> None:
    """Print on standard error the notices on works that a node and the works' custodians have.

    Those that an operator rejected are left out. This only informs: a refusal is told as well.
    """
    for work in works:
        try:
            found = (await operator.ask("GET", f"/works/{work}/notices"))["notices"]
        except NodeUnreachable:
            raise
        except VizError as error:
            told = f"work {work}: whether there are notices is not known ({error.detail})"
            err.print(plain(told), markup=False, soft_wrap=True)
            continue
        for each in found:
            if each["view"]["state"] != "rejected":
                line = _on_work(work, each["view"], each["url"])
                err.print(plain(line), markup=False, soft_wrap=True)


def _on_work(work: int, view: Mapping[str, Any], url: str) -> str:
    number, where = view["noticeId"], f" at {url}" if url else ""
    more = f"viz content show {work} --node {url}" if url else f"viz notice show {number}"
    return (
        f"work {work}: notice {number} ({view['kind']}) of {moment(view['receivedAt'])}{where}, "
        f"effective {effect(view)}. More: {more}"
    )
