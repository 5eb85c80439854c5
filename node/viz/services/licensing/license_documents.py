"""Serve license documents, each checked on the chain.

A document comes from a file ``<content id>.json`` in the operator's folder, else from the listing
that the work's owner published here. Invariants: a document is served only if the chain has its
hash and its terms for that work now; TDMRep's rules cover at most ``MAX_DOCUMENTS`` of the files
and as many works in custody; at most ``MAX_LICENSE_BYTES`` of a file are read.
"""

from __future__ import annotations

import asyncio
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from viz.domain.ports.chain import ChainReader, ContentState
from viz.domain.units import ContentId, hex_of
from viz.errors import (
    ChainUnreachable,
    InvalidLicense,
    LicenseError,
    LicenseMismatch,
    LicenseUnknown,
    ListingUnknown,
)
from viz.protocol.license_document.agreement import require_agreement
from viz.protocol.license_document.model import MAX_LICENSE_BYTES, LicenseDocument
from viz.protocol.license_document.reading import (
    is_license_document,
    license_from_json,
    license_from_values,
)
from viz.protocol.license_forms.catalogue import LicenseForm, form
from viz.protocol.license_forms.place import LicensePlace
from viz.protocol.license_forms.tdmrep import POLICY, tdm_rule
from viz.protocol.registration import CONTENTS_PATH
from viz.services.market.listings import Listings

MAX_DOCUMENTS: Final = 256
LOOKS_AT_ONCE: Final = 16
MAX_LOOK_S: Final = 30
LICENSE_PATH: Final = "/license"
_NAME: Final = re.compile(r"([1-9][0-9]{0,15})\.json", re.ASCII)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KeptLicense:
    """A document that agrees with the chain, with a cache of its forms."""

    document: LicenseDocument
    where: LicensePlace
    _made: dict[str, LicenseForm | None] = field(default_factory=dict)

    def form(self, name: str) -> LicenseForm | None:
        """Return a form, made once per reading of the chain; None if there is no such form."""
        if name not in self._made:
            made = form(self.document, self.where, name)
            if made is None:
                return None
            self._made[name] = made
        return self._made[name]


class LicenseDocuments:
    """Find license documents in the operator's folder and in listings, and check each on chain."""

    def __init__(
        self, folder: Path, chain: ChainReader, listings: Listings, *, origin: str
    ) -> None:
        """``origin`` is this node's public origin, for the links between the forms."""
        self._folder, self._chain, self._origin = folder, chain, origin
        self._listings = listings

    async def get(self, content_id: ContentId) -> KeptLicense:
        """Return a work's license as the chain has it.

        Raises LicenseUnknown if no valid document is kept here, LicenseMismatch if the chain has
        another license for the work, ChainUnreachable.
        """
        listed = await self._from_listing(content_id)
        try:
            return await self._checked(content_id, await self.kept(content_id))
        except LicenseError:  # no file, or one that is older than what the owner listed
            if listed is None:
                raise
        return await self._checked(content_id, listed)

    async def kept(self, content_id: ContentId) -> LicenseDocument:
        """Return the document that the operator listed, not compared with the chain.

        Raises LicenseUnknown if no valid document is kept here.
        """
        return await asyncio.to_thread(self._read, content_id)

    async def tdm_rules(self) -> list[dict[str, Any]]:
        """Return the rules of ``tdmrep.json`` for the works in the folder and in custody.

        A work whose document does not agree with the chain is reserved without a policy, which is
        stricter. Raises ChainUnreachable, also if reading all works takes longer than
        ``MAX_LOOK_S``: an incomplete list would reserve too little.
        """
        rules: list[dict[str, Any]] = []
        files = await asyncio.to_thread(self._listed)
        listed = sorted({*files, *await self._listings.in_custody(MAX_DOCUMENTS)})
        try:
            async with asyncio.timeout(MAX_LOOK_S):
                for start in range(0, len(listed), LOOKS_AT_ONCE):
                    together = listed[start : start + LOOKS_AT_ONCE]
                    for pair in await asyncio.gather(*map(self._rules_of, together)):
                        rules += pair
        except TimeoutError:
            raise ChainUnreachable(
                f"the chain could not be read for {len(listed)} works within {MAX_LOOK_S} s: try "
                "again"
            ) from None
        return rules

    async def _rules_of(self, content_id: ContentId) -> list[dict[str, Any]]:
        policy: str | None = None
        reserved = True
        try:
            kept = await self.get(content_id)
            reserved = not kept.document.in_public_domain
            if kept.form(POLICY) is not None:
                policy = kept.where.form(POLICY)
        except LicenseError as error:
            say = _log.info if isinstance(error, LicenseUnknown) else _log.warning
            say("a license is not shown", content_id=content_id, reason=error.detail)
        path = f"{CONTENTS_PATH}/{content_id}"
        return [
            tdm_rule(location, policy, reserved=reserved) for location in (f"{path}$", f"{path}/")
        ]

    async def _checked(self, content_id: ContentId, document: LicenseDocument) -> KeptLicense:
        state = await self._chain.content(content_id)
        if state is None:
            raise LicenseUnknown(f"the chain has no work {content_id}: check the id")
        await require_chain_has(document, state, self._chain)
        return KeptLicense(document, self._publication(content_id, state.withdrawn_at))

    async def _from_listing(self, content_id: ContentId) -> LicenseDocument | None:
        """Return the document in the owner's listing; None without one (a text, or nothing)."""
        try:
            values = (await self._listings.get(content_id)).listing.license
            return license_from_values(values) if is_license_document(values) else None
        except (ListingUnknown, InvalidLicense):
            return None

    def _publication(self, content_id: ContentId, withdrawn_at: int) -> LicensePlace:
        forms_url = f"{self._origin}{LICENSE_PATH}/{content_id}"
        return LicensePlace(f"{CONTENTS_PATH}/{content_id}$", forms_url, content_id, withdrawn_at)

    def _listed(self) -> list[ContentId]:
        if not self._folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        found = sorted(int(name[1]) for name in names if name is not None)
        if len(found) > MAX_DOCUMENTS:
            _log.warning("license documents left out", found=len(found), most=MAX_DOCUMENTS)
        return [ContentId(number) for number in found[:MAX_DOCUMENTS]]

    def _read(self, content_id: ContentId) -> LicenseDocument:
        path = self._folder / f"{content_id}.json"
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError("it is not a regular file")
            with path.open("rb") as file:
                return license_from_json(file.read(MAX_LICENSE_BYTES + 1))
        except FileNotFoundError:
            raise LicenseUnknown(
                f"this node keeps no license document of work {content_id}: ask its owner"
            ) from None
        except (OSError, InvalidLicense) as error:
            _log.warning("a license document cannot be read", path=str(path), reason=str(error))
            raise LicenseUnknown(
                f"this node keeps no valid license document of work {content_id}: ask its owner"
            ) from error


async def require_chain_has(
    document: LicenseDocument, state: ContentState, chain: ChainReader
) -> None:
    """Raise LicenseMismatch if the work's terms on the chain are not those of the document.

    Raises ChainUnreachable if the endpoint does not know the terms that the work names.
    """
    found = await chain.terms(state.terms_hash)
    if found is None:
        raise ChainUnreachable(
            f"the chain's endpoint knows no terms {hex_of(state.terms_hash)}, which work "
            f"{state.content_id} names: try again, or use another endpoint"
        )
    require_agreement(document, found.terms, chain.deployment)
    if document.license_hash != found.license_hash:
        raise LicenseMismatch(
            f"the license document hashes to {hex_of(document.license_hash)}, and the chain has "
            f"{hex_of(found.license_hash)} for work {state.content_id}: it was edited, or it is "
            "the document of another work or of earlier terms",
            fields=["licenseHash"],
        )
    if document.licensor.wallet not in (state.owner, state.creator):
        raise LicenseMismatch(
            f"licensor.wallet is {document.licensor.wallet} in the document, and work "
            f"{state.content_id} was registered by {state.creator} and belongs to {state.owner}",
            fields=["licensor.wallet"],
        )
