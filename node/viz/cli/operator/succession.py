"""Run `viz adapter succeed`: train an adapter's successor on the works that may still be used."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from viz.cli.console import AsJson, DataDir, guarded, run, say, show
from viz.cli.http import OperatedNode
from viz.cli.operator import permission, provenance
from viz.cli.operator.running_node import (
    AdapterArgument,
    DescriptionOption,
    NameOption,
    OperatorClient,
    PublishAnywayOption,
    adapter_app,
    named,
)
from viz.cli.operator.train import train_and_publish
from viz.cli.operator.training import say_card

# `viz adapter` is one group: this module is the last that adds commands to it.
__all__ = ["adapter_app", "permission", "provenance"]


@adapter_app.command("succeed")
@guarded
def succeed(
    adapter_id: AdapterArgument,
    name: NameOption = "",
    description: DescriptionOption = "",
    publish_anyway: PublishAnywayOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show which works would stay and which would not."),
    ] = False,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Train a successor without the works that were withdrawn or whose license ended.

    The successor has the adapter's other works, its settings and its rates. It may be trained
    before the adapter ends, during the notice period. When the adapter has ended, the refusal of
    requests for it names the successor.
    """
    operator = OperatorClient(node, folder)
    plan = run(operator.ask("GET", f"/adapters/{adapter_id}/succession"), logs=False)
    without = ", ".join(map(str, plan["without"]))
    if dry_run:
        if not show(plan, as_json=as_json):
            kept = ", ".join(str(each["contentId"]) for each in plan["request"]["works"])
            say(
                f"a successor of adapter {adapter_id} would be trained on work {kept}, without "
                f"work {without}"
            )
        return
    given = named(name, description)
    wanted: dict[str, Any] = {
        "royaltyBps": plan["royaltyBps"],
        "trainerBps": plan["trainerBps"],
        "anyway": publish_anyway,
        "succeeds": adapter_id,
        **given,
    }
    result = train_and_publish(operator, {**plan["request"], **given}, wanted, quiet=as_json)
    if show(result, as_json=as_json):
        return
    say_card(result)
    published = result["publication"]
    if published["offer"] is None:
        say(published["detail"])
    else:
        model = published["offer"]["model"]
        say(f"{model} is the successor of adapter {adapter_id}, without work {without}")
