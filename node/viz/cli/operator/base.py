"""Run `viz base`: export a base model, exactly as it is served, for another server."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.console import AsJson, BaseModelOption, DataDir, data_dir, guarded, out, run, say, show
from viz.cli.operator.preparing import preparing
from viz.domain.display import counted
from viz.domain.ports.engine import DEFAULT_BASE
from viz.domain.units import Hash32, parse_hash

if TYPE_CHECKING:
    from viz.basemodel.export import ExportedBase
    from viz.basemodel.source import LoadedBase

app = typer.Typer(no_args_is_help=True, help="Prepare a base model for another server.")


class Dtype(Enum):
    """Name the dtypes of exported weights; both hold the same numbers."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


@app.callback()
def _group() -> None:
    """Keep ``export`` a subcommand, although it is the only one."""


@app.command("export")
@guarded
def export(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to create.")],
    base_model: BaseModelOption = DEFAULT_BASE,
    base_digest: Annotated[
        str, typer.Option(help="The digest that it must have (0x and 64 digits).")
    ] = "",
    dtype: Annotated[
        Dtype, typer.Option(help="Dtype of the files; both hold the same numbers.")
    ] = Dtype.BFLOAT16,
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the checkpoint that a vLLM server must load to serve adapters of this base model.

    Adapters are trained on the base model's weights after 4-bit quantisation and back. The
    checkpoint holds these weights, in Hugging Face's layout. A server that loads the original model
    computes different answers.
    """
    wanted = parse_hash(base_digest) if base_digest else None
    base, made = run(_export(target, base_model, wanted, dtype, data_dir(folder)))
    told: dict[str, Any] = {
        "directory": str(made.directory),
        "base": base.model.name,
        "digest": f"0x{base.digest.hex()}",
        "dtype": made.dtype,
        "files": list(made.files),
        "bytes": made.weight_bytes,
    }
    if show(told, as_json=as_json):
        return
    say(f"base    {base.model.name}")
    say(f"digest  {told['digest']}")
    size = made.weight_bytes >> 20
    out.print(
        f"weights {made.dtype}, {size} MiB in {counted(len(made.files), 'file')}", soft_wrap=True
    )
    say(f"folder  {made.directory}")


async def _export(
    target: Path, source: str, digest: Hash32 | None, dtype: Dtype, place: Path
) -> tuple[LoadedBase, ExportedBase]:
    import asyncio

    from viz.basemodel.export import export_base
    from viz.basemodel.preparation import prepared_base
    from viz.basemodel.source import models_folder

    allowed = None if digest is None else frozenset({digest})
    with preparing() as report:
        base = await prepared_base(
            source, cache_dir=models_folder(place), allowed=allowed, report=report
        )
    made = await asyncio.to_thread(export_base, base, target, dtype=dtype.value)
    return base, made
