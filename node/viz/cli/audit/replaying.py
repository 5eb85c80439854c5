"""Run `viz audit answer`: compute a node's answer again, with the weights that the chain names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from viz.cli.audit import evidence
from viz.cli.console import AsJson, DataDir, DeploymentFile, data_dir, guarded, lines, run
from viz.cli.own_chain import CreatorRpcOption, own_chain, required_rpc, trusted_deployment
from viz.domain.ports.engine import DEFAULT_BASE
from viz.errors import ConfigError, InvalidRequest, UnknownAdapter

if TYPE_CHECKING:
    from viz.audit.answer_audit import Judge
    from viz.domain.ports.chain import AdapterState, Deployment
    from viz.domain.text_request import TextRequest
    from viz.domain.units import AdapterId
    from viz.protocol.answer_evidence import AnswerEvidence

_SHOWN_CHARS: Final = 240


@guarded
def answer(
    file: Annotated[
        Path, typer.Argument(help="Record of an answer, as `viz buyer ask --record` writes it.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="File of the adapter's plain weights. Default: that of the data folder."),
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="Name or folder of the base model.")
    ] = DEFAULT_BASE,
    margin: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="How much less likely than the likeliest token a token of the answer may be, in "
            "nats. Default: the most that two ways to compute in this engine differed by when "
            "measured. A node that computes in bfloat16, or on vLLM, needs more.",
        ),
    ] = None,
    same_processor: Annotated[
        bool,
        typer.Option(
            "--same-processor",
            help="The node computes on the same class of processor: permit no other token.",
        ),
    ] = False,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Replay a greedy answer under the weights that the chain names for its adapter.

    The node signed request and text with its receipt. Exit code 0: these weights give this text, to
    its end. 13: they do not, or the receipt is not for it. 14: nothing is proved, because its
    tokens were drawn by chance, or because it ends where these weights go on: no signature says
    why an answer ended. Needs the model stack (viz-node[node]).
    """
    trusted = trusted_deployment(deployment, folder)
    rpc = required_rpc(rpc, trusted, "an audit of an answer")
    record = _read(file)
    state = run(_adapter(record, rpc, trusted))
    place = data_dir(folder)
    judge = judge_for(state, (weights, base_model, margin, same_processor), place)
    found = _audit(record, judge, trusted)
    if not as_json:
        _say(found, record)
    evidence.finish(found, as_json=as_json)


def replayed(
    file: Path,
    weights: Path | None,
    base_model: str,
    rpc: str,
    trusted: Deployment,
    place: Path,
) -> dict[str, Any]:
    """Replay a record under the chain's weights, on any processor; return the audit as JSON."""
    record = _read(file)
    state = run(_adapter(record, rpc, trusted))
    given = (weights, base_model or DEFAULT_BASE, None, False)
    return _audit(record, judge_for(state, given, place), trusted)


def _read(file: Path) -> AnswerEvidence:
    from viz.given_file import about, read_given
    from viz.protocol.answer_evidence import MAX_EVIDENCE_BYTES, AnswerEvidence

    raw = read_given(file, MAX_EVIDENCE_BYTES)
    with about(file, "Give what `viz buyer ask --record FILE` wrote"):
        return AnswerEvidence.read(raw)


async def _adapter(record: AnswerEvidence, rpc: str, trusted: Deployment) -> AdapterState | None:
    """Return the billed adapter as the chain has it; None for the base model."""
    if (record.chain_id, record.settlement) != (trusted.chain_id, trusted.settlement):
        raise InvalidRequest(
            f"the answer was paid on chain {record.chain_id} at {record.settlement}, and you trust "
            f"{trusted.chain_id} and {trusted.settlement}: name its deployment with --deployment"
        )
    adapter_id: AdapterId = record.receipt.lines[0].adapter_id
    if not adapter_id:
        return None
    async with own_chain(rpc, trusted) as chain:
        state = await chain.adapter(adapter_id)
    if state is None:
        raise UnknownAdapter(f"adapter {adapter_id} is not registered on this chain: check --rpc")
    return state


def judge_for(
    state: AdapterState | None, given: tuple[Path | None, str, float | None, bool], place: Path
) -> Judge:
    """Return base and weights of an adapter (None: the base alone), compared with the chain's.

    ``given`` are the file of weights, the base model, the margin, and whether the processor is of
    the same class. Raises ConfigError, InvalidRequest.
    """
    from viz.audit.answer_audit import Judge, require_weights
    from viz.basemodel.source import load_base, models_folder
    from viz.cli.operator.preparing import preparing
    from viz.domain.answer_replay import MARGIN_NATS

    weights, base_model, margin, same_processor = given
    if weights is not None and not weights.is_file():
        raise InvalidRequest(f"{weights} is no file: give the adapter's weights with --weights")
    if find_spec("torch") is None:
        raise ConfigError("this install has no model stack: install viz-node[node] to replay")
    with preparing() as report:
        base = load_base(base_model, cache_dir=models_folder(place), report=report)
    if weights is None and state is not None:
        weights = place / "adapters" / f"{state.weights_digest.hex()}.safetensors"
        if not weights.is_file():
            raise InvalidRequest(
                f"{weights} does not exist: give the file of the adapter's weights with --weights"
            )
    judge = Judge(
        base,
        weights if state is not None else None,
        MARGIN_NATS if margin is None else margin,
        same_processor,
    )
    if state is not None:
        require_weights(state, judge)
    return judge


def _audit(record: AnswerEvidence, judge: Judge, trusted: Deployment) -> dict[str, Any]:
    from viz.audit.answer_audit import audit_answer
    from viz.domain.eip712 import settlement_domain

    domain = settlement_domain(trusted.chain_id, trusted.settlement)
    return audit_answer(record, _asked(record), judge, domain).to_json()


def _asked(record: AnswerEvidence) -> TextRequest | str:
    """Return the request as a node reads it, or why it refuses it."""
    from viz.api.openai.request import read_chat, read_completion
    from viz.domain.strict_json import load_json
    from viz.protocol.payment import CHAT_PATH

    try:
        # As the node reads it: of a member that is there twice the last one counts.
        body = load_json(record.body, last_counts=True)
        if not isinstance(body, dict):
            return "its body is not a JSON object"
        read = read_chat if record.path == CHAT_PATH else read_completion
        return read(body, max_choices=128)
    except InvalidRequest as error:
        return error.detail
    except ValueError as error:
        return f"its body is not JSON: {error}"


def _say(found: dict[str, Any], record: AnswerEvidence) -> None:
    adapter = found["adapterId"]
    rows: list[tuple[str, object]] = [
        ("node", record.node),
        ("adapter", f"{adapter}, as billed" if adapter else "none: the base model was billed"),
        ("request", _shortened(record.body.decode("utf-8", "replace"))),
        ("answer", _shortened(record.text)),
    ]
    if (done := found["replay"]) is not None:
        how = "the same class of processor" if found["sameProcessor"] else "any processor"
        rows += [
            ("tokens", done["tokens"]),
            ("not the likeliest ones", done["differing"]),
            (
                "largest gap",
                f"{done['largestGapNats']:g} nats of {found['marginNats']:g}, on {how}",
            ),
            *(
                (f"token {gap['place']}", f"{gap['answer']!r}, and {gap['likelier']!r} is likelier")
                for gap in done["gaps"][:3]
            ),
        ]
    lines("Answer, replayed" if done is not None else "Answer, not replayed", rows)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")
