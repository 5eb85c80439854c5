"""Write a license as an ODRL 2.2 policy in JSON-LD (W3C Recommendation, 2018-02-15).

The actions are those of ODRL's common vocabulary. Each right of the document becomes a permission
or, if it is reserved, a prohibition. No two rules have the same action and purpose, so there are no
conflicts. A license is an offer of its licensor. Of a work in the public domain nobody has anything
to offer: it is a set, without an assigner, that permits every use without a duty.
"""

from __future__ import annotations

from typing import Any, Final

from viz.domain.display import visible
from viz.protocol.license_document.agreement import terms_of
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.place import LicensePlace, work_name

CONTEXT: Final = "http://www.w3.org/ns/odrl.jsonld"
MEDIA_TYPE: Final = "application/ld+json"
TERM: Final = "urn:viz:term:"
# ODRL's own operand ``percentage`` is a part of the asset, so a royalty is a payment in this unit.
REVENUE_PERCENT: Final = f"{TERM}percent-of-gross-revenue"
# The duty that all permissions share.
GRANT: Final = "odrl.jsonld#grant"
# The right, ODRL's action for it, and the purpose that narrows the action.
ACTIONS: Final = (
    ("copy_for_training", "reproduce", "training"),
    ("embody_in_parameters", "derive", "adapter"),
    ("serve", "present", "answers"),
    ("evaluate", "reproduce", "evaluation"),
    ("compose", "aggregate", "adapter"),
    ("export", "distribute", "adapter"),
)


def odrl(document: LicenseDocument, where: LicensePlace) -> dict[str, Any]:
    """Return the policy; that of a withdrawn work has only prohibitions, if it is owned."""
    target = work_name(document)
    if document.in_public_domain:
        return {
            "@context": CONTEXT,
            "@type": "Set",
            "uid": where.form("odrl.jsonld"),
            "permission": [_rule(target, "use", [])],
        }
    permissions: list[dict[str, Any]] = []
    prohibitions: list[dict[str, Any]] = []
    limits = _constraints(document)
    for right, action, purpose in ACTIONS:
        narrowed = [_constraint("purpose", "eq", _named(purpose))]
        if getattr(document.rights, right) and not where.withdrawn_at:
            permissions.append(_rule(target, action, narrowed + limits))
        else:
            prohibitions.append(_rule(target, action, narrowed))
    excerpts = document.rights.excerpts
    if excerpts.permitted and not where.withdrawn_at:
        count = _constraint("count", "lteq", excerpts.max_tokens)
        permissions.append(_rule(target, "extract", [{**count, "unit": f"{TERM}token"}, *limits]))
    else:
        prohibitions.append(_rule(target, "extract", []))
    _give_duties(document, where, permissions)
    offer: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "Offer",
        "uid": where.form("odrl.jsonld"),
        "assigner": {
            "@type": "Party",
            "uid": f"urn:viz:{document.chain.chain_id}:{document.licensor.wallet}",
            "vcard:fn": visible(document.licensor.name),
        },
    }
    if permissions:
        offer["permission"] = permissions
    if prohibitions:
        offer["prohibition"] = prohibitions
    return offer


def _rule(target: str, action: str, constraints: list[dict[str, Any]]) -> dict[str, Any]:
    rule: dict[str, Any] = {"target": target, "action": action}
    return {**rule, "constraint": constraints} if constraints else rule


def _constraint(left: str, operator: str, right: object) -> dict[str, Any]:
    return {"leftOperand": left, "operator": operator, "rightOperand": right}


def _named(name: str) -> dict[str, str]:
    return {"@id": TERM + name}


def _constraints(document: LicenseDocument) -> list[dict[str, Any]]:
    limits, found = document.limits, []
    if limits.field != "any":
        found.append(_constraint("industry", "eq", _named(limits.field)))
    if limits.territory:
        places = [{"@id": f"urn:iso:std:iso:3166:-1:{code}"} for code in limits.territory]
        found.append(_constraint("spatial", "isAnyOf", places))
    if limits.grant_s:
        length = {"@value": f"PT{limits.grant_s}S", "@type": "xsd:duration"}
        found.append(_constraint("elapsedTime", "lteq", length))
    if limits.bases:
        bases = [{"@id": f"{TERM}base:{digest}"} for digest in limits.bases]
        found.append(_constraint("systemDevice", "isAnyOf", bases))
    return found


def _give_duties(
    document: LicenseDocument, where: LicensePlace, permissions: list[dict[str, Any]]
) -> None:
    """Add what each permission asks for: the one grant, its fee once, the royalty on answers.

    In ODRL a permission without a duty is free, whatever the duties of the others are. So each one
    names the grant, which is one duty with one uid.
    """
    chain, terms = document.chain, terms_of(document)
    for permission in permissions:
        permission["duty"] = [{"uid": where.form(GRANT), "action": "obtainConsent"}]
    if not permissions:
        return
    if terms.training_fee_units:
        token = f"urn:viz:{chain.chain_id}:{chain.token}"
        paid = _compensate("eq", document.money.training_fee, token)
        permissions[0]["duty"].append(paid)
    if terms.min_royalty_bps:
        part = _compensate("gteq", _percent(terms.min_royalty_bps), REVENUE_PERCENT)
        earning = [each for each in permissions if each["action"] == "present"]
        (earning or permissions)[0]["duty"].append(part)


def _compensate(operator: str, decimal: str, unit: str) -> dict[str, Any]:
    amount = {"@value": decimal, "@type": "xsd:decimal"}
    refinement = {**_constraint("payAmount", operator, amount), "unit": unit}
    return {
        "action": [{"rdf:value": {"@id": "odrl:compensate"}, "refinement": [refinement]}],
    }


def _percent(bps: int) -> str:
    return f"{bps // 100}.{bps % 100:02}"
