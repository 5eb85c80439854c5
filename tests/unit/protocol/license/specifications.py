"""The rules of the specifications that a license's forms follow, as checks.

Each check raises AssertionError that names the rule. The rules are those of the version that
docs/licenses.md names; the tests first show that a check takes what its specification gives as
examples and refuses what it forbids.
"""

from __future__ import annotations

import re
from typing import Any, Final
from xml.etree import ElementTree

from viz.protocol.license_document.codes import COUNTRIES

# What http://www.w3.org/ns/tdmrep.jsonld defines (files/tdmrep.jsonld of the Community Group's
# repository w3c/tdm-reservation-protocol, commit 1a9c4d3).
TDMREP_CONTEXT: Final = {
    "tdm": "http://www.w3.org/ns/tdmrep#",
    "mine": "tdm:mine",
    "research": "tdm:research",
    "non-research": "tdm:non-research",
}
RSL: Final = "{https://rslstandard.org/rsl}"
RSL_VOCABULARY: Final = {
    "usage": {"all", "ai-all", "ai-train", "ai-input", "ai-index", "search"},
    "user": {"commercial", "non-commercial", "education", "government", "personal"},
    "geo": COUNTRIES | {"EU"},
}
RSL_PAYMENTS: Final = {
    "purchase", "subscription", "training", "crawl", "use", "contribution", "attribution", "free",
}  # fmt: skip
RSL_LEGAL: Final = {
    "warranty": {"ownership", "authority", "no-infringement", "privacy-consent", "no-malware"},
    "disclaimer": {"as-is", "no-warranty", "no-liability", "no-indemnity"},
    "attestation": {"true", "false"},
}
RSL_CHILDREN: Final = {
    "rsl": {"content"},
    "content": {"license", "schema", "alternate", "copyright", "terms"},
    "license": {"permits", "prohibits", "payment", "reporting", "legal"},
    "payment": {"standard", "custom", "amount", "accepts"},
}
# Terms of ODRL's core and common vocabularies that our offers may use.
ODRL_ACTIONS: Final = {
    "use", "reproduce", "derive", "present", "extract", "aggregate", "distribute",
    "obtainConsent", "compensate",
}  # fmt: skip
ODRL_OPERANDS: Final = {
    "purpose", "industry", "spatial", "elapsedTime", "systemDevice", "count", "payAmount",
}  # fmt: skip
ODRL_OPERATORS: Final = {"eq", "gt", "gteq", "lt", "lteq", "neq", "isA", "hasPart", "isPartOf",
                         "isAllOf", "isAnyOf", "isNoneOf"}  # fmt: skip


def check_rsl(raw: bytes) -> None:
    """RSL 1.0: namespace, structure, vocabularies, and one element of each kind and type."""
    root = ElementTree.fromstring(raw)
    assert root.tag == f"{RSL}rsl", "the root is rsl in RSL's namespace"
    assert b"xmlns=" in raw and b"ns0:" not in raw, "RSL's namespace is the default one"
    for element in root.iter():
        name = element.tag.removeprefix(RSL)
        for child in element:
            assert child.tag.removeprefix(RSL) in RSL_CHILDREN.get(name, set()), (
                f"{child.tag} is unknown in {name}"
            )
    contents = root.findall(f"{RSL}content")
    assert contents, "there is a content"
    for content in contents:
        url = content.get("url")
        assert url is not None and url.startswith("/"), "a content has the path of its asset"
        licenses = content.findall(f"{RSL}license")
        assert licenses, "a content has a license"
        for each in licenses:
            _check_rsl_license(each)


def _check_rsl_license(found: ElementTree.Element) -> None:
    for kind in ("permits", "prohibits"):
        types = [each.get("type") for each in found.findall(f"{RSL}{kind}")]
        assert len(types) == len(set(types)), f"{kind} stands once for a type"
        for each in found.findall(f"{RSL}{kind}"):
            words = RSL_VOCABULARY[str(each.get("type"))]
            assert (each.text or "").split() and set((each.text or "").split()) <= words
    payments = found.findall(f"{RSL}payment")
    assert len(payments) <= 1, "one payment for a license"
    for payment in payments:
        assert payment.get("type") in RSL_PAYMENTS
        for amount in payment.findall(f"{RSL}amount"):
            assert re.fullmatch("[A-Z]{3}", amount.get("currency", "")), "a currency of ISO 4217"
        for name in ("custom", "standard"):
            for each in payment.findall(f"{RSL}{name}"):
                assert re.match(r"https?://\S+$", each.text or ""), f"{name} is an address"
    for each in found.findall(f"{RSL}legal"):
        if legal := RSL_LEGAL.get(str(each.get("type"))):
            assert set((each.text or "").split()) <= legal
        else:
            assert each.get("type") in ("contact", "proof") and " " not in (each.text or "")


def check_tdmrep(rules: Any) -> None:
    """TDMRep: an array of rules with a location, a reservation of 0 or 1, and maybe a policy."""
    assert isinstance(rules, list), "a list, also of one rule"
    for rule in rules:
        assert set(rule) <= {"location", "tdm-reservation", "tdm-policy"}
        assert rule["location"].startswith("/"), "a path pattern"
        assert type(rule["tdm-reservation"]) is int and rule["tdm-reservation"] in (0, 1)
        assert re.match(r"https?://\S+$", rule.get("tdm-policy", "https://none.test"))


def check_tdm_policy(policy: Any) -> None:
    """TDMRep's profile of ODRL: an offer with an assigner and one permission to mine."""
    assert policy["@context"] == [
        "http://www.w3.org/ns/odrl.jsonld",
        "http://www.w3.org/ns/tdmrep.jsonld",
    ]
    assert policy["@type"] == "Offer" and policy["profile"] == "http://www.w3.org/ns/tdmrep"
    assert ":" in policy["uid"] and ":" in policy["assigner"]["uid"]
    contact = {"fn", "nickname", "hasEmail", "hasAddress", "hasTelephone", "hasURL"}
    party = policy["assigner"]
    assert set(party) <= {"uid", *(f"vcard:{name}" for name in contact)}
    assert party.get("vcard:hasEmail", "mailto:").startswith("mailto:")
    assert not {"obligation", "prohibition"} & set(policy)
    (permission,) = policy["permission"]
    assert set(permission) <= {"target", "action", "duty", "constraint"}
    assert permission["action"] == "tdm:mine" and ":" in permission.get("target", ":")
    for duty in permission.get("duty", ()):
        assert duty in ({"action": "obtainConsent"}, {"action": "compensate"})
    for each in permission.get("constraint", ()):
        assert (each["leftOperand"], each["operator"]) == ("purpose", "eq")
        assert each["rightOperand"] in ("tdm:research", "tdm:non-research")


def read_preferences(text: str) -> dict[str, bool | None]:
    """AIPREF: the preference of each category, by the parsing of a dictionary (RFC 9651)."""
    found: dict[str, bool | None] = dict.fromkeys(("train-ai", "ai-use", "search"))
    members: dict[str, str] = {}
    for member in text.split(","):
        name, _, value = member.strip(" \t").partition("=")
        key, _, _ = name.partition(";")
        if not re.fullmatch(r"[a-z*][a-z0-9_\-.*]*", key):
            return dict.fromkeys(found)
        members[key] = "" if ";" in name else value.partition(";")[0]
    for name in found:
        found[name] = {"y": True, "n": False}.get(members.get(name, ""))
    return found


def check_training_assertion(assertion: Any) -> None:
    """CAWG 1.1: a map of entries, each with a use and, if constrained, maybe information."""
    assert assertion["label"] == "cawg.training-mining"
    data = assertion["data"]
    assert set(data) <= {"entries", "metadata"} and data["entries"]
    for name, entry in data["entries"].items():
        reserved = {"data_mining", "ai_inference", "ai_generative_training", "ai_training"}
        if name.startswith("cawg."):
            assert name.removeprefix("cawg.") in reserved, "cawg. is reserved"
        assert set(entry) <= {"use", "constraint_info"}
        assert entry["use"] in ("allowed", "notAllowed", "constrained")
        assert entry["use"] == "constrained" or "constraint_info" not in entry


def check_odrl(offer: Any) -> None:
    """ODRL 2.2: a policy of known terms whose rules and constraints are complete."""
    context = offer["@context"]
    assert "http://www.w3.org/ns/odrl.jsonld" in (
        context if isinstance(context, list) else [context]
    )
    assert offer["@type"] in ("Set", "Offer", "Agreement") and ":" in offer["uid"]
    assert (
        offer["@type"] != "Offer"
        or "assigner" in offer
        or all("assigner" in rule for rule in offer["permission"])
    ), "an offer has an assigner"
    rules = {"permission", "prohibition", "obligation"}
    assert rules & set(offer), "a policy has a rule"
    for kind in rules & set(offer):
        for rule in offer[kind]:
            assert ":" in rule["target"], "a rule has a target"
            _check_odrl_action(rule["action"])
            for constraint in rule.get("constraint", ()):
                _check_odrl_constraint(constraint)
            assert kind == "permission" or "duty" not in rule, "only a permission has duties"
            for duty in rule.get("duty", ()):
                _check_odrl_action(duty["action"])


def _check_odrl_action(action: Any) -> None:
    if isinstance(action, str):
        assert action in ODRL_ACTIONS, action
        return
    for each in action:
        name = each["rdf:value"]["@id"]
        assert name.removeprefix("odrl:") in ODRL_ACTIONS
        for refinement in each["refinement"]:
            _check_odrl_constraint(refinement)


def _check_odrl_constraint(found: Any) -> None:
    assert set(found) <= {"leftOperand", "operator", "rightOperand", "unit", "dataType"}
    assert found["leftOperand"] in ODRL_OPERANDS, found["leftOperand"]
    assert found["operator"] in ODRL_OPERATORS
    assert found["rightOperand"] not in (None, ""), "a constraint compares with something"
    assert ":" in found.get("unit", ":"), "a unit is an IRI"
