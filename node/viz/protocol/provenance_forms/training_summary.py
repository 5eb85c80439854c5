"""Write the public summary of training content that the EU's AI Act asks for, Art. 53(1)(d).

Owns the contents of each section, and both forms: JSON, and Markdown made from it. The sections are
those of the European Commission's template of 24 July 2025; the texts are ours. They state what
manifest, chain and license documents say, and call everything else unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from viz.domain.card import card_of
from viz.domain.display import amount, counted, moment, percent, visible
from viz.domain.units import hex_of
from viz.protocol.license_forms.summary import in_markdown
from viz.protocol.provenance_forms.facts import AcquiredWork, AdapterProvenance

FORMAT: Final = "viz-training-summary/1"
TEMPLATE: Final = (
    "European Commission, template for the public summary of training content for general-purpose "
    "AI models, 24 July 2025 (Regulation (EU) 2024/1689, Art. 53(1)(d))"
)
_SCOPE: Final = (
    "This summary covers the adapter's own training, which changed a base model that others made. "
    "What the base model was trained on is not known here: see its provider's summary.",
    "Whether the trainer is a provider of a general-purpose AI model under the Act depends on what "
    "is not recorded here, such as the compute of this training beside the base model's. The "
    "summary is given in any case.",
)
_MOST: Final = 1_000_000_000
_NONE: Final = "none"

StatedFact = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SummaryPart:
    """A numbered part: rows of a label and what is stated."""

    number: str
    title: str
    rows: Sequence[StatedFact]


def training_summary(provenance: AdapterProvenance) -> dict[str, Any]:
    """Return the summary as JSON values."""
    return {
        "format": FORMAT,
        "template": TEMPLATE,
        "adapter": provenance.urn,
        "manifestHash": hex_of(provenance.adapter.manifest_hash),
        "scope": list(_SCOPE),
        "sections": [
            {
                "number": number,
                "title": title,
                "parts": [
                    {
                        "number": part.number,
                        "title": part.title,
                        "statements": [
                            {"about": about, "stated": stated} for about, stated in part.rows
                        ],
                    }
                    for part in parts
                ],
            }
            for number, title, parts in _sections(provenance)
        ],
        "works": [_work_json(provenance, work) for work in provenance.works],
    }


def summary_json(provenance: AdapterProvenance) -> bytes:
    """Return the summary as JSON."""
    return (json.dumps(training_summary(provenance), indent=2, ensure_ascii=False) + "\n").encode()


def summary_markdown(provenance: AdapterProvenance) -> bytes:
    """Return the summary as Markdown (CommonMark with tables)."""
    name = provenance.name or f"adapter {int(provenance.adapter.adapter_id)}"
    lines = [f"# Training content of {in_markdown(visible(name))}", f"Template: {TEMPLATE}."]
    lines += _SCOPE
    for number, title, parts in _sections(provenance):
        lines.append(f"## {number}. {title}")
        for part in parts:
            lines.append(f"### {part.number} {part.title}\n\n{_table(part.rows)}")
    return ("\n\n".join(lines) + "\n").encode()


def _table(rows: Sequence[StatedFact]) -> str:
    cells = "\n".join(
        f"| {in_markdown(visible(about))} | {in_markdown(visible(stated))} |"
        for about, stated in rows
    )
    return f"| | |\n|---|---|\n{cells}"


def _sections(
    provenance: AdapterProvenance,
) -> tuple[tuple[str, str, tuple[SummaryPart, ...]], ...]:
    return (
        ("1", "General information", _general(provenance)),
        ("2", "List of data sources", _sources(provenance)),
        ("3", "Data processing aspects", _processing(provenance)),
    )


def _general(provenance: AdapterProvenance) -> tuple[SummaryPart, ...]:
    adapter, manifest, where = provenance.adapter, provenance.manifest, provenance.deployment
    tokens, works = provenance.tokens, counted(len(provenance.works), "work")
    languages = sorted({w.document.work.language for w in provenance.works if w.document})
    unknown = sum(1 for work in provenance.works if work.document is None)
    spoken = ", ".join(languages) or "not stated"
    if languages and unknown:
        spoken += f"; not stated for {counted(unknown, 'work')}"
    size = "less than 1 billion tokens" if tokens < _MOST else "1 billion tokens or more"
    return (
        SummaryPart(
            "1.1",
            "Provider identification",
            (
                ("provider", f"the trainer, {adapter.trainer}, who signed the manifest"),
                ("name and contact", f"not recorded; this summary is answered at "
                                     f"{provenance.origin}"),
                ("authorised representative in the Union", "not recorded"),
            ),
        ),
        SummaryPart(
            "1.2",
            "Model identification",
            (
                ("model", provenance.name or f"adapter {int(adapter.adapter_id)}"),
                ("registered as", f"adapter {int(adapter.adapter_id)} of {where.adapter_registry} "
                                  f"on chain {where.chain_id}"),
                ("weights", f"SHA-256 {manifest.weights_digest.hex()}"),
                ("model that it depends on", f"{manifest.base_name}, digest "
                                             f"{manifest.base_model.hex()}"),
                ("trained", f"{manifest.started_at} to {manifest.finished_at}"),
                ("placed on the market of the Union", "not recorded"),
            ),
        ),
        SummaryPart(
            "1.3",
            "Modalities, overall training data size and other characteristics",
            (
                ("modality", "text; no images, sound or video"),
                ("size", f"{size}: {counted(tokens, 'token')} of {works}"),
                ("type of content", "literary and factual text, and dialogues, as licensed"),
                ("latest acquisition of data", _latest(provenance)),
                ("languages, by the licensors", spoken),
            ),
        ),
    )  # fmt: skip


def _latest(provenance: AdapterProvenance) -> str:
    blocks = [work.grant.block_number for work in provenance.works if work.grant]
    grant = f"grants up to block {max(blocks)}; " if blocks else ""
    return f"{grant}the works were read when the training began, {provenance.manifest.started_at}"


def _sources(provenance: AdapterProvenance) -> tuple[SummaryPart, ...]:
    return (
        SummaryPart("2.1", "Publicly available datasets", ((_NONE, "no such dataset was used"),)),
        SummaryPart(
            "2.2.1",
            "Datasets commercially licensed by rightsholders or their representatives",
            [(work.title, _licensed(provenance, work)) for work in provenance.works],
        ),
        SummaryPart(
            "2.2.2", "Private datasets of other third parties", ((_NONE, "none was used"),)
        ),
        SummaryPart(
            "2.3",
            "Data crawled and scraped from online sources",
            (
                (
                    _NONE,
                    "the training read no site. Whether an owner made a work from a site is not "
                    "recorded in the manifest",
                ),
            ),
        ),
        SummaryPart(
            "2.4",
            "User data",
            ((_NONE, "requests to the node and its answers are not trained on"),),
        ),
        SummaryPart("2.5", "Synthetic data", _synthetic(provenance)),
        SummaryPart("2.6", "Other sources of data", _others(provenance)),
    )


def _licensed(provenance: AdapterProvenance, work: AcquiredWork) -> str:
    source, document, grant = work.source, work.document, work.grant
    told = [f"work {int(work.content_id)}"]
    if document is not None:
        told += [
            f"by {', '.join(document.work.creators)}",
            f"licensed by {document.licensor.name}",
            f"language {document.work.language}",
        ]
    told += [
        f"how the licensor has it: {work.acquired}",
        f"content hash {hex_of(source.commitment)}",
        f"{counted(source.tokens, 'token')} in {counted(source.chunks, 'chunk')}",
        f"{percent(work.share_bps)} of the works' royalties",
    ]
    if grant is not None:
        fee = amount(grant.fee_units, provenance.deployment)
        told.append(
            f"grant to {grant.trainer} for {fee}, block {grant.block_number}, transaction "
            f"{hex_of(grant.transaction_hash)}"
        )
    else:
        told.append("grant: the chain's endpoint told none")
    if work.license_hash is not None:
        told.append(f"license {hex_of(work.license_hash)}")
    if document is not None:
        told += [
            f"personal data in it, by the licensor: {_yes(document.work.personal_data)}",
            f"work of others in it, by the licensor: {_yes(document.work.third_party)}",
        ]
    if work.state.withdrawn_at:
        told.append(f"withdrawn {moment(work.state.withdrawn_at)}")
    return "; ".join(told)


def _synthetic(provenance: AdapterProvenance) -> Sequence[StatedFact]:
    settings = provenance.manifest.settings
    rows: list[StatedFact] = [
        (
            "made from the works by rules",
            "questions in several wordings, whose answers are the works' own words; words are "
            "exchanged for those that the base model embeds alike. No other model wrote text",
        )
    ]
    share = settings.get("replay_share")
    if isinstance(share, int | float) and share:
        rows.append(
            (
                "made by the base model",
                f"its own answers to general questions, {share:g} rows for each row of the works, "
                "so that it is not forgotten",
            )
        )
    return rows


def _others(provenance: AdapterProvenance) -> Sequence[StatedFact]:
    if "questions" in provenance.manifest.measurements:
        said = "questions that the creators wrote chose the best state; they were not trained on"
        return ((_NONE, said),)
    return ((_NONE, "no other source was used"),)


def _processing(provenance: AdapterProvenance) -> tuple[SummaryPart, ...]:
    card = card_of(provenance.manifest.measurements)
    limit = provenance.manifest.settings.get("max_verbatim_tokens")
    repeated: StatedFact = ("repetition of works", "not measured")
    if card is not None and card.longest_tokens is not None:
        repeated = (
            "repetition of works",
            f"the longest run of tokens word for word was {card.longest_tokens} in the passages "
            f"that were probed, and {limit} were allowed",
        )
    return (
        SummaryPart(
            "3.1",
            "Respect of the reservation of rights from text and data mining",
            (
                (
                    "basis",
                    "each work was used under its owner's license, and not under the exception for "
                    "text and data mining: the registry takes no adapter without a live grant of "
                    "each declared work",
                ),
                (
                    "withdrawal",
                    "an owner withdraws a work on the chain; what then ends, and when, follows "
                    "from the class of the grant",
                ),
            ),
        ),
        SummaryPart(
            "3.2",
            "Removal of illegal content",
            (
                (
                    "measures in this training",
                    "none by program: works are chosen one by one and licensed by a named wallet",
                ),
            ),
        ),
        SummaryPart(
            "3.3",
            "Other information",
            (
                repeated,
                (
                    "to check it",
                    "`viz audit adapter` trains again from the manifest and compares the weights "
                    f"with the chain's digest; the manifest: {provenance.url('manifest')}",
                ),
            ),
        ),
    )


def _work_json(provenance: AdapterProvenance, work: AcquiredWork) -> dict[str, Any]:
    grant, document = work.grant, work.document
    return {
        "contentId": int(work.content_id),
        "title": work.title,
        "creators": list(document.work.creators) if document else [],
        "acquired": document.work.acquired if document else None,
        "commitment": hex_of(work.source.commitment),
        "sha256": document.work.sha256 if document and work.is_public else None,
        "tokens": work.source.tokens,
        "chunks": work.source.chunks,
        "shareBps": work.share_bps,
        "licenseHash": hex_of(work.license_hash) if work.license_hash else None,
        "license": provenance.license_url(work) if work.is_public else None,
        "grant": {
            "trainer": grant.trainer,
            "owner": grant.owner,
            "termsHash": hex_of(grant.terms_hash),
            "fee": str(grant.fee_units),
            "expiresAt": grant.expires_at,
            "block": grant.block_number,
            "transaction": hex_of(grant.transaction_hash),
        }
        if grant
        else None,
        "withdrawnAt": work.state.withdrawn_at or None,
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"
