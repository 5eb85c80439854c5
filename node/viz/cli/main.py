"""Build the tree of commands; import a module when one of its commands is used or listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from viz.cli.console import MEANINGS

TREE: Final = {
    "up": "operator.daemon:up",
    "node": "operator.daemon:node_app",
    "status": "operator.running_node:status",
    "train": "operator.train:train",
    "training": "operator.training:app",
    "settle": "operator.settle:settle",
    "trust": "trust:trust",
    "key": "keys:app",
    "content": "creator.content:app",
    "license": "creator.license:app",
    "wallet": "creator.account_view:app",
    "channel": "buyer.channel:app",
    "buyer": "buyer.buyer:app",
    "adapter": "operator.succession:adapter_app",
    "notice": "operator.notices:app",
    "base": "operator.base:app",
    "storage": "operator.storage:app",
    "audit": "audit.audit:app",
    "testnet": "operator.testnet:app",
}


EMPTY: Final = (
    "the value is empty (as of a script's variable that is not set): give one, or leave it out; "
    "the present folder is ."
)


def _refuse_empty_values(command: Any) -> None:
    """Let a command and those below it refuse an empty value that was typed, with its option.

    Python reads an empty path as the present folder, and an empty text as no text: a check that
    the option asks for would not be made.
    """
    for each in getattr(command, "commands", {}).values():
        _refuse_empty_values(each)
    for param in command.params:
        param.process_value = partial(_given, param, param.process_value)


def _given(param: Any, process: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    source = context.get_parameter_source(param.name)
    typed = source is not None and source.name == "COMMANDLINE"
    if typed and (value == "" or (isinstance(value, list | tuple) and "" in value)):
        raise typer.BadParameter(EMPTY, context, param)
    return process(context, value)


class _Commands(dict[str, Any]):
    """Map names to commands, and make a command when its name is looked up."""

    def __missing__(self, name: str) -> Any:
        if name not in TREE:
            raise KeyError(name)
        module, _, attribute = TREE[name].partition(":")
        found = getattr(import_module(f"viz.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            made: Any = typer.main.get_group(found)
        else:
            single = typer.Typer(add_completion=False)
            single.command(name)(found)
            made = typer.main.get_command(single)
        made.name = name
        _refuse_empty_values(made)
        self[name] = made
        return made

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in TREE else default

    def __iter__(self) -> Iterator[str]:
        return iter(TREE)

    def __len__(self) -> int:
        return len(TREE)

    def __contains__(self, name: object) -> bool:
        return name in TREE

    def items(self) -> Any:
        return [(name, self[name]) for name in TREE]

    def keys(self) -> Any:
        return TREE.keys()

    def values(self) -> Any:
        return [self[name] for name in TREE]


class _Tree(TyperGroup):
    """Group the commands of ``viz`` in the order of TREE."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands()


app = typer.Typer(
    name="viz",
    cls=_Tree,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Viz: license works, train adapters on them, and sell and buy their answers.",
    epilog="Exit codes: " + "; ".join(f"{code} {what}" for code, what in MEANINGS.items()) + ".",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"viz {version('viz-node')}")
        raise typer.Exit


@app.callback()
def _options(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    return
