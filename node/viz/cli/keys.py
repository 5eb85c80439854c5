"""Run `viz key`: make encrypted key files, and show their addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from viz.cli.console import AsJson, PasswordFile, guarded, out, password, show

app = typer.Typer(no_args_is_help=True, help="Make encrypted key files, and show their addresses.")


@app.command()
@guarded
def new(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key, encrypted with a password, and print its address."""
    from viz.chain.keys import create_key_file

    account = create_key_file(file, password(password_file, confirm=True))
    if not show({"address": account.address, "file": str(file)}, as_json=as_json):
        out.print(f"{account.address}  in {file}: keep the file and its password apart")


@app.command()
@guarded
def address(
    file: Annotated[Path, typer.Argument(help="Encrypted key file.")],
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Open a key file and print its address."""
    from viz.chain.keys import load_key_file

    account = load_key_file(file, password(password_file))
    if not show({"address": account.address, "file": str(file)}, as_json=as_json):
        out.print(account.address)
