"""Run `viz audit`: check the claims of others by computing again (an adapter: by training it)."""

from __future__ import annotations

import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from viz.cli.audit import evidence, probing, replaying
from viz.cli.console import (
    AsJson,
    BaseModelOption,
    DataDir,
    data_dir,
    err,
    guarded,
    out,
    run,
    say,
    show,
    table,
)
from viz.cli.http import RPC_VARIABLE
from viz.cli.operator.running_node import AdapterArgument
from viz.cli.operator.train import work_file
from viz.cli.own_chain import OTHER_CHAIN_REMEDY
from viz.client.node_address import checked
from viz.domain.ports.engine import DEFAULT_BASE
from viz.domain.units import AdapterId
from viz.errors import InvalidRequest, TrainingError, TrainingWorkerDied, UnknownAdapter
from viz.given_file import read_given
from viz.training.run import Bounds
from viz.written_file import require_new, write_new

app = typer.Typer(no_args_is_help=True, help="Check the claims of others by computing them again.")
_BOUNDS = Bounds()
LAST_WORDS_CHARS: Final = 600


app.command("payouts")(evidence.payouts)
app.command("receipts")(evidence.receipts)
app.command("answer")(replaying.answer)
app.command("node")(probing.node)


@app.command("adapter")
@guarded
def adapter(
    adapter_id: AdapterArgument,
    works: Annotated[
        list[Path], typer.Argument(help="Work files or folders, with their registration records.")
    ],
    manifest: Annotated[
        Path, typer.Option(help="File of the manifest that the trainer published.")
    ],
    rpc: Annotated[
        str, typer.Option(envvar=RPC_VARIABLE, help="The chain's JSON-RPC URL.")
    ] = "http://127.0.0.1:8545",
    deployment: Annotated[
        Path | None,
        typer.Option(
            "--deployment",
            help="File of the contracts. Default: deployment.json in the data folder.",
        ),
    ] = None,
    base_model: BaseModelOption = DEFAULT_BASE,
    max_time_s: Annotated[
        int, typer.Option(min=1, help="Longest time of the repeated training, in seconds.")
    ] = _BOUNDS.time_s,
    max_memory_mib: Annotated[
        int, typer.Option(min=1, help="Most memory of the repeated training, in MiB.")
    ] = _BOUNDS.memory_bytes >> 20,
    card: Annotated[
        bool,
        typer.Option("--card", help="Also compare the new report card with the manifest's."),
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            help="New file for the weights that come out, for `viz audit answer --weights`.",
        ),
    ] = None,
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter again from its manifest and compare the bytes with the chain's digest.

    Exit code 0: the bytes, the report card and all else that the manifest says are the same. 13:
    the manifest is false, since it contradicts the chain or the works, or the training rows differ,
    or the bytes or the report card differ on the same hardware and versions. 14: the bytes or the
    card differ, but so do hardware or versions, or the manifest says what was not checked, so
    nothing is proved. The manifest is the one that the chain names (`viz adapter
    provenance ID --format manifest`).
    """
    from viz.domain.manifest import MAX_MANIFEST_BYTES

    place = data_dir(folder)
    given = (rpc, deployment or place / "deployment.json")
    envelope = read_given(manifest, MAX_MANIFEST_BYTES)
    if keep is not None:
        require_new(keep, "--keep")
    bounds = Bounds(max_memory_mib << 20, max_time_s)
    asked = _TrainingToRepeat(AdapterId(adapter_id), works, envelope, base_model, bounds, keep)
    report = run(_audit(asked, given, place))
    if not show(report, as_json=as_json):
        _say(adapter_id, report)
        if card and report["card"]:
            _say_cards(report)
    if status := evidence.EXITS[report["verdict"]]:
        raise typer.Exit(status)


@dataclass(frozen=True, slots=True)
class _TrainingToRepeat:
    """What is to be trained again, and where its weights are kept."""

    adapter_id: AdapterId
    works: list[Path]
    envelope: bytes
    base_model: str
    bounds: Bounds
    keep: Path | None


async def _audit(
    asked: _TrainingToRepeat, chain_at: tuple[str, Path], place: Path
) -> dict[str, Any]:
    from viz.audit.adapter_audit import audit_adapter
    from viz.basemodel.source import models_folder
    from viz.chain.contracts import Chain
    from viz.chain.deployment import load_deployment
    from viz.chain.rpc import Rpc
    from viz.training.worker import ADAPTER_FILE

    rpc, deployment = Rpc(checked(chain_at[0], "a chain's address")), load_deployment(chain_at[1])
    try:
        await rpc.check(deployment, OTHER_CHAIN_REMEDY)
        chain = Chain(rpc, deployment)
        state = await chain.adapter(asked.adapter_id)
        shares = state.shares if state is not None else ()
        contents = [await chain.content(content_id) for content_id, _ in shares]
    finally:
        await rpc.close()
    if state is None:
        raise UnknownAdapter(
            f"adapter {asked.adapter_id} is not registered on this chain: check the id, --rpc and "
            "--deployment"
        )
    with tempfile.TemporaryDirectory(prefix="viz-audit-") as directory:
        try:
            report = await audit_adapter(
                asked.envelope,
                [{"path": str(work_file(work).absolute())} for work in asked.works],
                directory=Path(directory),
                base_model=asked.base_model,
                cache_dir=models_folder(place),
                registered=state,
                commitments={
                    content_id: content.commitment
                    for (content_id, _), content in zip(shares, contents, strict=True)
                    if content is not None
                },
                bounds=asked.bounds,
                progress=lambda event: err.print(f"{event.kind} {event.values.get('step', '')}"),
            )
        except TrainingError as error:
            raise type(error)(f"nothing was judged: {why_ended(error)}") from error
        except OSError as error:
            # A full disk names no file, and the folder is gone when this is read.
            raise TrainingError(
                f"nothing was judged: {tempfile.gettempdir()} cannot hold the audit's files "
                f"({error.strerror}): free some space there, or set TMPDIR"
            ) from error
        if asked.keep is not None and report.found is not None:
            _keep(Path(directory) / ADAPTER_FILE, asked.keep)
    return report.to_json()


def _keep(weights: Path, file: Path) -> None:
    """Copy the weights; a full disk costs the copy and not the audit's result."""
    try:
        write_new(file, weights.read_bytes())
    except InvalidRequest as error:
        err.print(f"{error.detail}: the weights are not kept")
    except OSError as error:
        err.print(f"{file} could not be written ({error.strerror}): the weights are not kept")


def why_ended(error: TrainingError) -> str:
    """Return why the audit's training ended; its log goes with its folder, so it is told here."""
    from viz.training.limits import MEMORY_ADVICE, TIME_ADVICE

    if not isinstance(error, TrainingWorkerDied):
        for advice, option in ((MEMORY_ADVICE, "--max-memory-mib"), (TIME_ADVICE, "--max-time-s")):
            if error.detail.endswith(advice):
                return f"{error.detail.removesuffix(advice)}: permit more with {option}"
        return error.detail
    status = error.extensions.get("exit_status")
    killed = ", as when the machine has too little memory" if status == -signal.SIGKILL else ""
    said = str(error.extensions.get("last_words", ""))[-LAST_WORDS_CHARS:].strip()
    return (
        f"the audit's own training ended with status {status}{killed}. Its last words: "
        f"{said or 'none'}"
    )


def _say_cards(report: dict[str, Any]) -> None:
    claimed, found = (_flat(report[name] or {}) for name in ("claimedCard", "card"))
    rows = [(name, claimed.get(name, "not stated"), found[name]) for name in found]
    table("Report card", ("what", "in the manifest", "here"), rows)


def _whether(matches: bool | None) -> object:
    return "not computed" if matches is None else matches


def _flat(card: dict[str, Any]) -> dict[str, object]:
    return {
        f"{name}, {part}" if part else name: "not measured" if value is None else value
        for name, values in card.items()
        for part, value in (values if isinstance(values, dict) else {"": values}).items()
    }


def _say(adapter_id: int, report: dict[str, Any]) -> None:
    rows: list[tuple[str, object]] = [
        ("verdict", report["verdict"]),
        ("weights on chain", report["claimedWeights"]),
        ("weights found", report["foundWeights"] or "none: nothing was trained"),
        ("training rows match", _whether(report["rowsMatch"])),
        ("reproducibility class", report["reproducibility"]),
        *(("remark", remark) for remark in report["remarks"]),
        *(
            (f"differs: {k}", f"{a} in the manifest, {b} here")
            for k, (a, b) in report["differences"].items()
        ),
    ]
    table(f"Audit of adapter {adapter_id}", ("what", "value"), rows)
    if report["verdict"] == "different":
        for remark in report["remarks"] or [
            "the same manifest and works give other weights here than the chain has, and nothing "
            "that counts is different on this machine"
        ]:
            say(f"finding  {remark}", style="red")
    if report["verdict"] == "inconclusive" and report["foundWeights"]:
        same = report["foundWeights"] == report["claimedWeights"] and report["rowsMatch"]
        out.print(
            "The weights are the same. What the remarks and differences name is not proved by that."
            if same
            else "The bytes or the report card differ, but so do hardware or versions: repeat the "
            "audit on those of the manifest."
        )
