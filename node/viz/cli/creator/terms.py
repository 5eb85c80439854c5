"""Say license terms in the words that a creator or a trainer agrees to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from viz.domain.display import amount, duration, percent

if TYPE_CHECKING:
    from viz.domain.license import Terms
    from viz.domain.ports.chain import Deployment

WITHDRAWALS = {
    0: "grants and adapters that exist stay (class 0)",
    1: "no new adapter on existing grants (class 1)",
    2: "adapters that hold the work are retired too (class 2)",
}


def changed(said: str, before: str | None) -> str:
    """Return a term in words, with what it was until now if that differs."""
    return said if before in (None, said) else f"{said}  (until now: {before})"


def terms_in_words(terms: Terms, trusted: Deployment | None) -> list[tuple[str, str]]:
    """Return the terms line by line; without a deployment the fee is in base units."""
    from viz.domain.license import Use

    units = terms.training_fee_units
    fee = amount(units, trusted) if trusted is not None else f"{units} base units of the token"
    lasts = duration(terms.grant_duration_s) if terms.grant_duration_s else "for ever"
    uses = ", ".join(use.name.lower() for use in Use if terms.uses & use and use.name)
    return [
        ("training fee", f"{fee}, once for each grant"),
        ("royalty", f"at least {percent(terms.min_royalty_bps)} of an adapter's gross revenue"),
        ("a grant lasts", lasts),
        ("uses", uses),
        (
            "who may license",
            "only trainers that you approve"
            if terms.approval_required
            else "anybody who pays the fee",
        ),
        ("a withdrawal", WITHDRAWALS.get(terms.revocation_class, str(terms.revocation_class))),
        ("notice period", duration(terms.notice_s) if terms.notice_s else "none: at once"),
    ]
