"""Write and read manifests: signed statements of what an adapter was made from, and how.

Owns the in-toto Statement (v1) with SLSA provenance (v1) in a DSSE envelope, its signature and its
hash. The trainer signs with EIP-191 over DSSE's pre-authentication encoding, so that any wallet can
sign; the key id is the trainer's address. Invariants: the same content and key give the same bytes;
a manifest that ``open_manifest`` returns was signed by the address that it names.

Formats: in-toto Statement v1, SLSA provenance v1, DSSE v1.0 (protocol.md, "PAE"), EIP-191 (0x45).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import rfc8785

from viz.domain.eip712 import is_signed_by, keccak, public_address, sign
from viz.domain.strict_json import MemberTwice, load_json
from viz.domain.units import BPS, Address, ContentId, Hash32, hex_of, parse_address, parse_hash
from viz.errors import InvalidRequest, InvalidSignature, VizError

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:viz:training:qlora:v1"
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_MANIFEST_VALUES: Final = 262_144
_ENVELOPE: Final = frozenset({"payloadType", "payload", "signatures"})
_SIGNATURE: Final = frozenset({"keyid", "sig"})


@dataclass(frozen=True, slots=True)
class SourceWork:
    """A work that the adapter was trained on, with its commitment on chain and its size."""

    content_id: ContentId
    commitment: Hash32
    chunks: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a manifest.

    ``settings`` and ``works`` (in order) determine the training; ``environment`` describes the
    machine; ``measurements`` are held-out losses and the memorisation probe, as JSON values.
    """

    trainer: Address
    weights_digest: Hash32
    base_model: Hash32
    base_name: str
    works: tuple[SourceWork, ...]
    rows_digest: Hash32
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    reproducibility: str
    measurements: Mapping[str, Any]
    started_at: str
    finished_at: str

    def statement(self) -> dict[str, Any]:
        """Return the in-toto Statement."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": "adapter.safetensors", "digest": {"sha256": self.weights_digest.hex()}}
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "settings": dict(self.settings),
                        "works": [
                            {
                                "contentId": int(work.content_id),
                                "commitment": hex_of(work.commitment),
                                "chunks": work.chunks,
                                "tokens": work.tokens,
                            }
                            for work in self.works
                        ],
                    },
                    "internalParameters": {
                        "environment": dict(self.environment),
                        "reproducibility": self.reproducibility,
                    },
                    "resolvedDependencies": [
                        {"name": self.base_name, "digest": {"sha256": self.base_model.hex()}},
                        *(
                            {
                                "uri": f"urn:viz:content:{int(work.content_id)}",
                                "digest": {"vizCommitment": work.commitment.hex()},
                            }
                            for work in self.works
                        ),
                    ],
                },
                "runDetails": {
                    "builder": {"id": _builder(self.trainer)},
                    "metadata": {"startedOn": self.started_at, "finishedOn": self.finished_at},
                    "byproducts": [
                        {"name": "dataset.jsonl", "digest": {"keccak256": self.rows_digest.hex()}},
                        {"name": "measurements", "annotations": dict(self.measurements)},
                    ],
                },
            },
        }


def seal_manifest(manifest: Manifest, key: bytes) -> bytes:
    """Return the signed envelope as canonical JSON; ``key`` must be the trainer's.

    Raises InvalidSignature if it is another key.
    """
    if public_address(key) != manifest.trainer:
        raise InvalidSignature(f"sign this manifest with the key of its trainer {manifest.trainer}")
    payload = rfc8785.dumps(manifest.statement())
    envelope: dict[str, Any] = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": manifest.trainer,
                "sig": base64.b64encode(sign(key, _digest(payload))).decode(),
            }
        ],
    }
    return rfc8785.dumps(envelope)


def manifest_hash(envelope: bytes) -> Hash32:
    """Return keccak256 of the envelope's bytes, which AdapterRegistry stores."""
    return keccak(envelope)


def open_manifest(envelope: bytes, *, expected_hash: Hash32 | None = None) -> Manifest:
    """Verify a signed envelope and return its manifest.

    Raises InvalidRequest (malformed, or not the ``expected_hash``) or InvalidSignature.
    """
    if expected_hash is not None and manifest_hash(envelope) != expected_hash:
        raise InvalidRequest("this manifest is not the one that the chain names")
    if len(envelope) > MAX_MANIFEST_BYTES:
        raise InvalidRequest(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    try:
        outer = load_json(envelope)
        payload = base64.b64decode(outer["payload"], validate=True)
        if outer.keys() != _ENVELOPE or outer["signatures"][0].keys() != _SIGNATURE:
            raise InvalidRequest("the envelope holds members that no manifest's has")
        signature = base64.b64decode(outer["signatures"][0]["sig"], validate=True)
        trainer = parse_address(outer["signatures"][0]["keyid"])
        if outer["payloadType"] != PAYLOAD_TYPE or len(outer["signatures"]) != 1:
            raise InvalidRequest("the envelope is not an in-toto statement signed once")
        manifest = _manifest(load_json(payload, max_values=MAX_MANIFEST_VALUES), trainer)
    except MemberTwice as error:
        raise InvalidRequest(f"this is not a manifest of an adapter: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, binascii.Error) as error:
        raise InvalidRequest("this is not a manifest of an adapter") from error
    if not is_signed_by(_digest(payload), signature, trainer):
        raise InvalidSignature(f"the manifest is not signed by {trainer}, whom it names")
    return manifest


def pre_authentication(payload: bytes) -> bytes:
    """Return DSSE's encoding of type and body, which is signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def shares_by_tokens(works: Sequence[SourceWork]) -> tuple[tuple[ContentId, int], ...]:
    """Return (contentId, bps) in proportion to the works' tokens, summing to 10,000.

    Largest remainders first, ties to the lower id; each work has at least one basis point.
    Raises InvalidRequest if there are no works, too many, or none with tokens.
    """
    total = sum(work.tokens for work in works)
    if not works or total <= 0 or len(works) > BPS:
        raise InvalidRequest("shares need works with tokens")
    spare = BPS - len(works)
    exact = {work.content_id: divmod(work.tokens * spare, total) for work in works}
    shares = {content: 1 + whole for content, (whole, _) in exact.items()}
    left = BPS - sum(shares.values())
    for content in sorted(exact, key=lambda each: (-exact[each][1], each))[:left]:
        shares[content] += 1
    return tuple(sorted(shares.items()))


def _digest(payload: bytes) -> Hash32:
    message = pre_authentication(payload)
    return keccak(b"\x19Ethereum Signed Message:\n%d" % len(message) + message)


def _builder(trainer: Address) -> str:
    return f"urn:viz:trainer:{trainer}"


def _manifest(statement: Mapping[str, Any], trainer: Address) -> Manifest:
    predicate = statement["predicate"]
    build, run = predicate["buildDefinition"], predicate["runDetails"]
    kinds = (statement["_type"], statement["predicateType"], build["buildType"])
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE, BUILD_TYPE):
        raise InvalidRequest("the statement is not of a QLoRA training")
    if (builder := run["builder"]["id"]) != _builder(trainer):
        raise InvalidSignature(f"it names {str(builder)[:80]} as its trainer, and {trainer} signs")
    base, *_ = build["resolvedDependencies"]
    rows, measurements = run["byproducts"]
    manifest = Manifest(
        trainer=trainer,
        weights_digest=parse_hash(statement["subject"][0]["digest"]["sha256"]),
        base_model=parse_hash(base["digest"]["sha256"]),
        base_name=str(base["name"]),
        works=tuple(
            SourceWork(
                ContentId(int(work["contentId"])),
                parse_hash(work["commitment"]),
                int(work["chunks"]),
                int(work["tokens"]),
            )
            for work in build["externalParameters"]["works"]
        ),
        rows_digest=parse_hash(rows["digest"]["keccak256"]),
        settings=dict(build["externalParameters"]["settings"]),
        environment=dict(build["internalParameters"]["environment"]),
        reproducibility=str(build["internalParameters"]["reproducibility"]),
        measurements=dict(measurements["annotations"]),
        started_at=str(run["metadata"]["startedOn"]),
        finished_at=str(run["metadata"]["finishedOn"]),
    )
    # Build the statement again and compare: unknown members would escape an audit.
    try:
        same = rfc8785.dumps(manifest.statement()) == rfc8785.dumps(dict(statement))
    except (rfc8785.CanonicalizationError, VizError) as error:
        raise InvalidRequest("the statement holds values that JSON cannot carry") from error
    if not same:
        raise InvalidRequest("the statement holds members that a manifest does not have")
    return manifest
