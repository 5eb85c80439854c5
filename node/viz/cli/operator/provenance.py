"""Run `viz adapter provenance`: show what an adapter was made from, in forms that others read."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from viz.cli.console import AsJson, guarded, out, plain, run, say, show, table
from viz.cli.http import LOCAL_NODE, NodeUrl, ask, get_bytes
from viz.cli.operator.running_node import AdapterArgument, adapter_app
from viz.domain.display import counted
from viz.domain.units import AdapterId
from viz.errors import InvalidRequest
from viz.protocol.answers import read_as, value_of
from viz.written_file import require_new, write_new

# The catalogue of forms is not imported: its modules are the node's, and load slowly.
_PATH = "/viz/v1/adapters/{}/provenance"
_MOST_FORMS = 64


class ProvenanceForm(StrEnum):
    """A form of an adapter's provenance."""

    MANIFEST = "manifest"
    ML_BOM = "mlbom"
    SUMMARY_MARKDOWN = "summary-md"
    SUMMARY_JSON = "summary-json"


@adapter_app.command("provenance")
@guarded
def provenance(
    adapter_id: AdapterArgument,
    form: Annotated[
        ProvenanceForm | None,
        typer.Option(
            "--format",
            help="manifest: as the trainer signed it. mlbom: CycloneDX 1.6. summary-md and "
            "summary-json: training content by the EU's AI Act, Art. 53(1)(d).",
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--out", help="New file for the form, byte for byte.")
    ] = None,
    node: NodeUrl = LOCAL_NODE,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter was made from: works, grants, licenses, base model, measurements.

    The trainer's node and every node that serves the adapter answer this to anybody. Without
    --format the command lists the forms.
    """
    path = _PATH.format(AdapterId(adapter_id))
    if form is None:
        found = run(ask("GET", node, path), logs=False)
        if not show(found, as_json=as_json):
            rows = read_as(_forms, found)
            table(f"Provenance of adapter {adapter_id}", ("form", "media type", "URL"), rows)
        return
    if as_json and form is ProvenanceForm.SUMMARY_MARKDOWN:
        raise InvalidRequest(
            "Markdown cannot be shown as JSON: use --format summary-json, or leave out --json"
        )
    if file is not None:
        require_new(file, "--out")
    raw = run(get_bytes(node, f"{path}/{form.value}"), logs=False)
    if form is not ProvenanceForm.SUMMARY_MARKDOWN:
        value_of(raw, HTTPStatus.OK, max_values=None)  # it is printed and kept as it came
    if file is not None:
        write_new(file, raw, "--out")
        say(f"{file} has {counted(len(raw), 'byte')}")
        return
    text = plain(raw.decode("utf-8", "replace"), keep="\n")
    out.print(text, markup=False, soft_wrap=True, end="")


def _forms(found: object) -> list[tuple[str, str, str]]:
    from viz.protocol.wire import Reader

    forms = Reader(found, "the catalogue").array("forms", _MOST_FORMS)
    readers = [Reader(each, "a form") for each in forms]
    return [(each.text("form"), each.text("mediaType"), each.text("url")) for each in readers]
