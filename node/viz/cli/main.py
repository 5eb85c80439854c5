"""The tree of commands."""

from __future__ import annotations

from importlib.metadata import version as distribution_version
from typing import Annotated

import typer

from viz import log
from viz.cli import audit, buyer, channel, content, daemon, keys, operator, settle, testnet, train
from viz.cli.console import MEANINGS

app = typer.Typer(
    name="viz",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Viz: a marketplace node for legally compliant generative AI.",
    epilog="Exit codes: " + "; ".join(f"{code} {what}" for code, what in MEANINGS.items()) + ".",
)
app.command()(daemon.up)
app.command()(daemon.node)
app.command()(operator.status)
app.command()(train.train)
app.command()(settle.settle)
app.add_typer(keys.app, name="key")
app.add_typer(content.app, name="content")
app.add_typer(channel.app, name="channel")
app.add_typer(buyer.app, name="buyer")
app.add_typer(operator.adapter_app, name="adapter")
app.add_typer(audit.app, name="audit")
app.add_typer(testnet.app, name="testnet")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"viz {distribution_version('viz-node')}")
        raise typer.Exit


@app.callback()
def _options(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    return


def main() -> None:
    """Run the command line; what its parts log is no part of a result, nor of its JSON."""
    log.configure("warning")
    app()
