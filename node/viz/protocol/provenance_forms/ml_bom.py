"""Write an adapter's provenance as a machine-learning bill of materials: CycloneDX 1.6 in JSON.

CycloneDX's own library writes most of the bill. It has no classes for ``modelCard`` and ``data``
yet, so these two are added here, and the library's strict validator checks the result.
Invariant: the same facts give the same bytes; the serial number is derived from the manifest.

Source: CycloneDX 1.6 (ECMA-424), sections on components, model cards and data.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from viz.domain.card import card_of
from viz.domain.units import hex_of
from viz.errors import ConfigError
from viz.protocol.provenance_forms.facts import AcquiredWork, AdapterProvenance

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"
_ADAPTER: Final = "adapter"
_BASE: Final = "base-model"
# How CycloneDX calls whoever owns data.
_PARTIES: Final = {"person": "contact", "organization": "organization"}


def ml_bom(provenance: AdapterProvenance) -> bytes:
    """Return the bill as JSON that CycloneDX's validator accepts.

    Raises ConfigError if the library is not installed, ValueError if the bill is not valid.
    """
    try:
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise ConfigError(
            "this node has no CycloneDX library: install viz-node[node], or ask for the form "
            "'manifest'"
        ) from error
    bill: dict[str, Any] = json.loads(JsonV1Dot6(_bill(provenance)).output_as_string())
    bill["metadata"]["component"]["modelCard"] = _model_card(provenance)
    by_ref = {each["bom-ref"]: each for each in bill["components"]}
    for work in provenance.works:
        by_ref[_ref(work)]["data"] = [_data(work)]
    text = json.dumps(bill, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    _require_valid(text)
    return text.encode()


def _require_valid(text: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if found is not None:
        raise ValueError(f"the bill of materials is not CycloneDX 1.6: {str(found)[:500]}")


def _bill(provenance: AdapterProvenance) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData

    manifest = provenance.manifest
    adapter, base = _adapter(provenance), _base(provenance)
    works = [_work(provenance, work) for work in provenance.works]
    bill = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{provenance.urn}#{_manifest(provenance)}"),
        metadata=BomMetaData(
            component=adapter,
            timestamp=datetime.fromisoformat(manifest.finished_at),
        ),
        components=[base, *works],
    )
    bill.register_dependency(adapter, [base, *works])
    return bill


def _adapter(provenance: AdapterProvenance) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.contact import OrganizationalEntity

    adapter, manifest, where = provenance.adapter, provenance.manifest, provenance.deployment
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=provenance.name or f"viz-adapter-{int(adapter.adapter_id)}",
        version=manifest.weights_digest.hex()[:16],
        bom_ref=_ADAPTER,
        manufacturer=OrganizationalEntity(name=manifest.trainer),
        hashes=[_sha256(manifest.weights_digest.hex())],
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.ATTESTATION,
                url=XsUri(provenance.url("manifest")),
                comment="the trainer's signed manifest: in-toto statement with SLSA provenance",
            ),
        ],
        properties=_properties(
            ("viz:adapter", provenance.urn),
            ("viz:chainId", where.chain_id),
            ("viz:adapterRegistry", where.adapter_registry),
            ("viz:contentRegistry", where.content_registry),
            ("viz:manifestHash", _manifest(provenance)),
            ("viz:rowsDigest", hex_of(manifest.rows_digest)),
            ("viz:reproducibility", manifest.reproducibility),
            ("viz:royaltyBps", adapter.royalty_bps),
            ("viz:trainingStarted", manifest.started_at),
        ),
    )


def _base(provenance: AdapterProvenance) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    manifest = provenance.manifest
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=manifest.base_name or "base model",
        bom_ref=_BASE,
        hashes=[_sha256(manifest.base_model.hex())],
        properties=_properties(("viz:role", "base model, frozen; its own training is not told")),
    )


def _work(provenance: AdapterProvenance, work: AcquiredWork) -> Component:
    from cyclonedx.model import XsUri
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.contact import OrganizationalContact
    from cyclonedx.model.license import DisjunctiveLicense

    document, grant = work.document, work.grant
    told: list[tuple[str, object]] = [
        ("viz:contentId", int(work.content_id)),
        ("viz:commitment", hex_of(work.source.commitment)),
        ("viz:acquired", work.acquired),
        ("viz:chunks", work.source.chunks),
        ("viz:tokens", work.source.tokens),
        ("viz:shareBps", work.share_bps),
    ]
    if grant is not None:
        told += [
            ("viz:grant:trainer", grant.trainer),
            ("viz:grant:owner", grant.owner),
            ("viz:grant:termsHash", hex_of(grant.terms_hash)),
            ("viz:grant:feeUnits", grant.fee_units),
            ("viz:grant:expiresAt", grant.expires_at),
            ("viz:grant:block", grant.block_number),
            ("viz:grant:transaction", hex_of(grant.transaction_hash)),
        ]
    if work.state.withdrawn_at:
        told.append(("viz:withdrawnAt", work.state.withdrawn_at))
    licenses = []
    if work.license_hash is not None:
        name = f"Viz license {hex_of(work.license_hash)}"
        url = XsUri(provenance.license_url(work)) if work.is_public else None
        licenses.append(DisjunctiveLicense(name=name, url=url))
    open_hash = document is not None and work.is_public
    return Component(
        type=ComponentType.DATA,
        name=work.title,
        bom_ref=_ref(work),
        authors=[OrganizationalContact(name=each) for each in document.work.creators]
        if document
        else None,
        hashes=[_sha256(document.work.sha256[2:])] if document and open_hash else None,
        licenses=licenses,
        properties=_properties(*told),
    )


def _data(work: AcquiredWork) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "dataset", "name": work.title}
    if work.document is not None:
        said = work.document.work
        kinds = [
            words
            for flag, words in (
                (said.personal_data, "personal data, says the licensor"),
                (said.third_party, "work of third parties, says the licensor"),
            )
            if flag
        ]
        licensor = work.document.licensor
        found["classification"] = "licensed work"
        found["governance"] = {
            "owners": [{_PARTIES[licensor.kind]: {"name": licensor.name}}],
        }
        if kinds:
            found["sensitiveData"] = kinds
    return found


def _model_card(provenance: AdapterProvenance) -> dict[str, Any]:
    manifest = provenance.manifest
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-generation",
            "architectureFamily": "transformer",
            "modelArchitecture": f"LoRA adapter of rank {manifest.settings.get('rank')}, by QLoRA",
            "datasets": [{"ref": _ref(work)} for work in provenance.works],
            "inputs": [{"format": "text/plain"}],
            "outputs": [{"format": "text/plain"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(provenance)},
        "considerations": {
            "technicalLimitations": [
                "It was taught what the works named here say. What is measured of other uses "
                "stands among the performance metrics.",
            ],
        },
        "properties": [
            {"name": f"viz:setting:{name}", "value": str(value)}
            for name, value in sorted(manifest.settings.items())
        ],
    }


def _metrics(provenance: AdapterProvenance) -> list[dict[str, str]]:
    card = card_of(provenance.manifest.measurements)
    if card is None:
        return []
    told = [
        ("right answers", card.right, f"of {card.asked} questions in unseen wordings"),
        ("right answers of the base model", card.base_right, f"of the same {card.asked}"),
        ("general questions still answered", card.general_kept, f"of {card.general_base}"),
    ]
    if card.committed_asked:
        of = f"of {card.committed_asked} questions that the creators wrote"
        told.append(("right answers", card.committed_right, of))
    if card.longest_tokens is not None:
        told.append(("longest verbatim run, tokens", card.longest_tokens, "of the probed passages"))
    return [{"type": kind, "value": str(value), "slice": part} for kind, value, part in told]


def _ref(work: AcquiredWork) -> str:
    return f"work-{int(work.content_id)}"


def _manifest(provenance: AdapterProvenance) -> str:
    return hex_of(provenance.adapter.manifest_hash)


def _sha256(digits: str) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digits)


def _properties(*told: tuple[str, object]) -> list[Property]:
    from cyclonedx.model import Property

    return [Property(name=name, value=str(value)) for name, value in told]
