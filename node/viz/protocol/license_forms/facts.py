"""Describe a license in plain words: the rows that every summary shows.

A summary separates what the contracts enforce from what the licensee promises, so that nobody
mistakes a promise for a technical guarantee. Nobody owns a work in the public domain: its summary
permits, reserves and promises nothing, and says what the registration on the chain does. Invariant:
texts of others have passed ``visible``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from viz.domain.display import counted, duration, moment, percent, visible
from viz.domain.units import hex_of
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.place import LicensePlace

_CAPACITIES: Final = {
    "author": "the author",
    "rights-holder": "the holder of the rights",
    "publisher": "the publisher",
    "agent": "an agent of the holder of the rights",
}
ACQUIRED: Final = {
    "own-work": "the licensor's own work",
    "commissioned": "made on commission for the licensor",
    "assigned": "the rights were assigned to the licensor",
    "licensed": "the licensor has a license that permits this one",
    "public-domain": (
        "in the public domain: nobody owns it, and who has it from elsewhere needs no license"
    ),
}
_EFFECTS: Final = {
    "keep": "no new grant; grants and adapters that exist run on as agreed",
    "stop-new-adapters": (
        "no new grant; no new adapter after the notice period; adapters that exist stay"
    ),
    "retire-adapters": "no new grant; adapters that hold the work retire after the notice period",
}
_ERASURE: Final = {
    "none": "nothing",
    "copies-and-keys": "copies of the work, and the keys of sealed copies",
}
_FIELDS: Final = {
    "any": "any purpose",
    "non-commercial": "purposes that are not commercial",
    "research": "research",
}
# Of the recorded rights, AdapterRegistry checks these three before it registers an adapter.
_HELD: Final = (
    ("copy_for_training", "copy the work to train an adapter"),
    ("embody_in_parameters", "register an adapter that was trained on it"),
    ("serve", "answer with that adapter, for pay"),
)
_PROMISED: Final = (
    ("evaluate", "measure models on the work"),
    ("compose", "use the adapter together with others"),
    ("export", "hand the adapter's plain weights on"),
)


@dataclass(frozen=True, slots=True)
class SummarySection:
    """A heading and its rows, each a label and a text."""

    title: str
    rows: tuple[tuple[str, str], ...]


def sections(document: LicenseDocument, where: LicensePlace | None) -> list[SummarySection]:
    """Return the summary's sections, in order."""
    if document.in_public_domain:
        return _of_public_domain(document, where)
    found = [
        _parties(document),
        SummarySection("What the contracts on the chain hold", tuple(_held(document))),
        SummarySection(
            "What a licensee promises, and no contract can hold", tuple(_promised(document))
        ),
        _end(document),
        _words(document),
        _identity(document, where),
    ]
    if where is not None and where.withdrawn_at:
        gone = ("withdrawn", f"{moment(where.withdrawn_at)}: no new grant is given")
        found.insert(0, SummarySection("This work was withdrawn", (gone,)))
    return found


def _of_public_domain(
    document: LicenseDocument, where: LicensePlace | None
) -> list[SummarySection]:
    """Return the sections of a work that needs no permission, withdrawn or not."""
    withdrawn_at = where.withdrawn_at if where is not None else 0
    offers = (
        f"nothing more: the registration was withdrawn on {moment(withdrawn_at)}, and the work "
        "stays in the public domain"
        if withdrawn_at
        else "its registration on the chain, and a copy where a node holds one, free of charge"
    )
    freedom = (
        ("permission", "none is needed, from anybody, for any use"),
        ("fee and royalty", "none"),
        ("the registrant offers", offers),
    )
    return [
        SummarySection("In the public domain", freedom),
        _parties(document),
        SummarySection(
            "What the contracts on the chain hold", tuple(_registered(document, withdrawn_at))
        ),
        _end(document),
        _words(document),
        _identity(document, where),
    ]


def _registered(document: LicenseDocument, withdrawn_at: int) -> list[tuple[str, str]]:
    """Return what an adapter needs that names this registration of a work nobody owns."""
    named = "an adapter that names this registration"
    if not all(getattr(document.rights, right) for right, _ in _HELD):
        return [(named, "is not possible: it was registered without training, adapters or answers")]
    if withdrawn_at:
        return [(named, "needs a grant of it, and no new one is given")]
    limits = document.limits
    lasts = duration(limits.grant_s) if limits.grant_s else "for ever"
    who = "those that the registrant approves" if limits.approval_required else "anybody"
    return [
        (named, "needs a grant of it, free of charge; any other use needs none"),
        ("a grant lasts", lasts),
        ("who may have one", who),
    ]


def _parties(document: LicenseDocument) -> SummarySection:
    who, work = document.licensor, document.work
    licensor = ("licensor", f"{visible(who.name)}, {_CAPACITIES[who.capacity]}")
    rows = [
        ("work", visible(work.title)),
        ("creators", ", ".join(map(visible, work.creators))),
        ("language", work.language),
        ("registered by", visible(who.name)) if document.in_public_domain else licensor,
        ("contact", who.contact),
        ("how acquired", ACQUIRED[work.acquired]),
        ("work of others in it", _yes(work.third_party)),
        ("personal data in it", _yes(work.personal_data)),
    ]
    dates = [("created", work.created), ("published", work.published)]
    return SummarySection("Who and what", (*rows, *((name, day) for name, day in dates if day)))


def _held(document: LicenseDocument) -> list[tuple[str, str]]:
    rights, limits, money = document.rights, document.limits, document.money
    rows = [(words, _given(getattr(rights, right))) for right, words in _HELD]
    symbol = visible(document.chain.token_symbol)
    lasts = duration(limits.grant_s) if limits.grant_s else "for ever"
    who = "only those that the owner approves" if limits.approval_required else "anybody"
    return [
        *rows,
        ("fee of a grant", f"{money.training_fee} {symbol}"),
        ("royalty", f"at least {percent(money.min_royalty_bps)} of an adapter's gross revenue"),
        ("a grant lasts", lasts),
        ("who may have one", who),
    ]


def _promised(document: LicenseDocument) -> list[tuple[str, str]]:
    rights, limits = document.rights, document.limits
    places = ", ".join(limits.territory) if limits.territory else "worldwide"
    bases = ", ".join(limits.bases) if limits.bases else "any"
    return [
        *((words, _given(getattr(rights, right))) for right, words in _PROMISED),
        ("quote the work in answers", _given(rights.excerpts.permitted)),
        ("longest run word for word", counted(rights.excerpts.max_tokens, "token")),
        ("for", _FIELDS[limits.field]),
        ("where", places),
        ("base models", bases),
        ("to erase at the end", _ERASURE[document.exit.erasure]),
    ]


def _end(document: LicenseDocument) -> SummarySection:
    said = document.exit
    notice = duration(said.notice_s) if said.notice_s else "none: at once"
    rows = (
        ("a withdrawal", f"{_EFFECTS[said.effect]} (class {said.revocation_class})"),
        ("notice period", notice),
    )
    unowned = document.in_public_domain
    return SummarySection("How the registration ends" if unowned else "How it ends", rows)


def _words(document: LicenseDocument) -> SummarySection:
    law, warranties = document.law, document.warranties
    first = "the chain" if law.precedence == "chain-first" else "this document"
    rows = [
        ("warranted", ", ".join(warranties.given) or "nothing"),
        ("disclaimed", ", ".join(warranties.disclaimed) or "nothing"),
        ("law", visible(law.governing)),
        ("if document and chain differ", f"{first} counts"),
    ]
    if law.courts:
        rows.append(("courts", visible(law.courts)))
    if document.text:
        unowned = document.in_public_domain
        label = "further words of the registrant" if unowned else "further conditions"
        rows.append((label, visible(document.text, keep="\n\t")))
    return SummarySection("Warranties and law", tuple(rows))


def _identity(document: LicenseDocument, where: LicensePlace | None) -> SummarySection:
    chain = document.chain
    rows = [
        ("license hash", hex_of(document.license_hash)),
        ("issued", document.issued),
        ("chain", str(chain.chain_id)),
        ("registry", chain.registry),
        (
            "token",
            f"{chain.token} ({visible(chain.token_symbol)}, "
            f"{counted(chain.token_decimals, 'decimal')})",
        ),
        ("wallet", document.licensor.wallet),
        ("file's SHA-256", document.work.sha256),
        ("Merkle root", document.work.root),
    ]
    if where is not None and where.content_id is not None:
        rows.insert(0, ("work on the chain", str(where.content_id)))
    return SummarySection("How to check it", tuple(rows))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _given(value: bool) -> str:
    return "permitted" if value else "reserved"
