"""Write a license as declarations of TDMRep (W3C Community Group, final report of 2024-05-10).

A Viz license needs a grant, so the mining rights are reserved, and the policy says how to get a
grant. Of a work in the public domain nobody can reserve them, and there is no policy. The policy
follows TDMRep's profile of ODRL 2.2: one permission to mine, with the duties to obtain consent and
to pay.
"""

from __future__ import annotations

from typing import Any, Final

from viz.domain.display import visible
from viz.protocol.license_document.agreement import terms_of
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.place import LicensePlace, work_name

# Earlier drafts had an object that defines the prefix ``tdm`` in place of the second context, which
# defines the same prefix.
CONTEXT: Final = ["http://www.w3.org/ns/odrl.jsonld", "http://www.w3.org/ns/tdmrep.jsonld"]
PROFILE: Final = "http://www.w3.org/ns/tdmrep"
POLICY: Final = "tdm-policy.json"


def tdm_policy(document: LicenseDocument, where: LicensePlace) -> dict[str, Any] | None:
    """Return the policy of the work; None if the work is not for license, or nobody's."""
    if not document.rights.copy_for_training or where.withdrawn_at or document.in_public_domain:
        return None
    duties = [{"action": "obtainConsent"}]
    terms = terms_of(document)
    if terms.training_fee_units or terms.min_royalty_bps:
        duties.append({"action": "compensate"})
    permission: dict[str, Any] = {
        "target": work_name(document),
        "action": "tdm:mine",
        "duty": duties,
    }
    if document.limits.field == "research":
        permission["constraint"] = [
            {"leftOperand": "purpose", "operator": "eq", "rightOperand": "tdm:research"}
        ]
    return {
        "@context": CONTEXT,
        "@type": "Offer",
        "uid": where.form(POLICY),
        "profile": PROFILE,
        "assigner": _assigner(document, where),
        "permission": [permission],
    }


def _assigner(document: LicenseDocument, where: LicensePlace) -> dict[str, str]:
    party = {
        "uid": f"urn:viz:{document.chain.chain_id}:{document.licensor.wallet}",
        "vcard:fn": visible(document.licensor.name),
    }
    contact = document.licensor.contact
    if contact.startswith("mailto:"):
        party["vcard:hasEmail"] = contact
    party["vcard:hasURL"] = where.form("summary.html")
    return party


def tdm_rule(location: str, policy_url: str | None, *, reserved: bool = True) -> dict[str, Any]:
    """Return a rule of ``/.well-known/tdmrep.json``; without policy nothing is for license."""
    rule = {"location": location, "tdm-reservation": int(reserved)}
    return rule if policy_url is None else {**rule, "tdm-policy": policy_url}


def tdm_rules(document: LicenseDocument, where: LicensePlace) -> list[dict[str, Any]]:
    """Return the content of ``tdmrep.json`` for a site with this one work."""
    policy = where.form(POLICY) if tdm_policy(document, where) is not None else None
    return [tdm_rule(where.work_path, policy, reserved=not document.in_public_domain)]
