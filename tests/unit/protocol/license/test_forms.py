"""A license's forms against the rules of their specifications, in every kind of license."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.fakes.licenses import WHERE, changed, of_public_domain, preset
from tests.unit.protocol.license import specifications as spec

from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_document.presets import PRESETS
from viz.protocol.license_forms.aipref import usage_preference
from viz.protocol.license_forms.catalogue import NAMES, form, forms
from viz.protocol.license_forms.cawg import training_assertion
from viz.protocol.license_forms.odrl import odrl
from viz.protocol.license_forms.place import LicensePlace
from viz.protocol.license_forms.rate_card import rate_card
from viz.protocol.license_forms.rsl import rsl
from viz.protocol.license_forms.tdmrep import CONTEXT, tdm_policy, tdm_rules

GONE = LicensePlace(WHERE.work_path, WHERE.forms_url, 1, withdrawn_at=1_800_000_000)
EVALUATION = {
    "rights.copy_for_training": False,
    "rights.embody_in_parameters": False,
    "rights.serve": False,
    "rights.compose": False,
}
KINDS: dict[str, LicenseDocument] = {
    **{name: preset(name) for name in PRESETS},
    "evaluation only": changed(EVALUATION),
    "everything": changed({"rights.export": True, "limits.grant_s": 0}),
    "narrow": changed(
        {"limits.territory": ["DE", "PT"], "limits.bases": ["0x" + "33" * 32],
         "limits.field": "non-commercial", "money.training_fee": "0"}
    ),
    "odd names": changed(
        {"licensor.name": 'A & <b>"B"</b>\u202e', "work.title": "]]> & \u2028",
         "licensor.contact": "https://alma.test/a?b=1&c=2"}
    ),
    "no warranty": changed({"warranties.given": [], "warranties.disclaimed": []}),
}  # fmt: skip


def contact(**more: str) -> dict[str, str]:
    return {"uid": "https://shop.test", "vcard:fn": "Shop", **more}


def tdm(permission: Any, **changes: Any) -> dict[str, Any]:
    return {
        "@context": [
            "http://www.w3.org/ns/odrl.jsonld",
            "http://www.w3.org/ns/tdmrep.jsonld",
        ],
        "@type": "Offer",
        "profile": "http://www.w3.org/ns/tdmrep",
        "uid": "https://shop.test/policies/1",
        "assigner": contact(),
        "permission": [permission],
        **changes,
    }


def rsl_of(license_parts: str, url: str = 'url="/"') -> bytes:
    return (
        f'<rsl xmlns="https://rslstandard.org/rsl"><content {url}><license>{license_parts}'
        "</license></content></rsl>"
    ).encode()


# What each specification shows or requires, and what it forbids. The check must tell them apart.
TAKEN: list[tuple[Callable[[Any], None], Any]] = [
    (spec.check_rsl, rsl_of('<prohibits type="usage">ai-all</prohibits>')),
    (spec.check_rsl, rsl_of('<permits type="usage">ai-input</permits>'
                            '<permits type="user">non-commercial education</permits>'
                            '<permits type="geo">US EU</permits>')),
    (spec.check_rsl, rsl_of('<payment type="crawl"><amount currency="USD">0.015</amount>'
                            "<standard>https://shop.test/l</standard></payment>")),
    (spec.check_tdmrep, [{"location": "/", "tdm-reservation": 1}]),
    (spec.check_tdmrep, [{"location": "/a/*.jpg", "tdm-reservation": 0},
                         {"location": "/b/", "tdm-reservation": 1,
                          "tdm-policy": "https://shop.test/policy.json"}]),
    (spec.check_tdm_policy, tdm({"action": "tdm:mine", "duty": [{"action": "obtainConsent"}]})),
    (spec.check_tdm_policy, tdm(
        {"action": "tdm:mine", "duty": [{"action": "compensate"}], "constraint": [
            {"leftOperand": "purpose", "operator": "eq", "rightOperand": "tdm:non-research"}]},
        assigner=contact(**{"vcard:hasEmail": "mailto:a@shop.test"}))),
    (spec.check_training_assertion, {"label": "cawg.training-mining", "data": {"entries": {
        "cawg.ai_inference": {"use": "allowed"},
        "cawg.ai_generative_training": {"use": "notAllowed"},
        "cawg.data_mining": {"use": "constrained", "constraint_info": "see the policy"},
        "com.shop.dubbing": {"use": "notAllowed"}}}}),
    (spec.check_odrl, {"@context": "http://www.w3.org/ns/odrl.jsonld", "@type": "Set",
                       "uid": "http://shop.test/1",
                       "permission": [{"target": "http://shop.test/m", "action": "use"}]}),
    (spec.check_odrl, {"@context": "http://www.w3.org/ns/odrl.jsonld", "@type": "Offer",
                       "uid": "http://shop.test/2", "permission": [{
                           "target": "http://shop.test/w", "assigner": "http://shop.test/o",
                           "action": "distribute",
                           "constraint": [{"leftOperand": "spatial", "operator": "eq",
                                           "rightOperand": "https://shop.test/IT"}],
                           "duty": [{"action": [{"rdf:value": {"@id": "odrl:compensate"},
                                                 "refinement": [{"leftOperand": "payAmount",
                                                                 "operator": "eq",
                                                                 "rightOperand": "500.00",
                                                                 "unit": "http://shop.test/E"}]}]}],
                       }]}),
]  # fmt: skip
REFUSED: list[tuple[Callable[[Any], None], Any]] = [
    (spec.check_rsl, b'<rsl><content url="/"><license/></content></rsl>'),
    (spec.check_rsl, rsl_of("", url="")),
    (spec.check_rsl, rsl_of("<price/>")),
    (spec.check_rsl, rsl_of('<permits type="usage">train-ai</permits>')),
    (spec.check_rsl, rsl_of('<permits type="usage">search</permits>'
                            '<permits type="usage">ai-input</permits>')),
    (spec.check_rsl, rsl_of('<payment type="use"><amount currency="vUSD">2</amount></payment>')),
    (spec.check_tdmrep, {"location": "/", "tdm-reservation": 1}),
    (spec.check_tdmrep, [{"location": "/", "tdm-reservation": "1"}]),
    (spec.check_tdmrep, [{"location": "/", "tdm-reservation": 2}]),
    (spec.check_tdm_policy, tdm({"action": "use"})),
    (spec.check_tdm_policy, tdm({"action": "tdm:mine"}, profile="http://shop.test")),
    (spec.check_tdm_policy, tdm({"action": "tdm:mine"}, prohibition=[])),
    (spec.check_training_assertion, {"label": "cawg.training-mining", "data": {"entries": {}}}),
    (spec.check_training_assertion, {"label": "cawg.training-mining", "data": {"entries": {
        "cawg.viz": {"use": "allowed"}}}}),
    (spec.check_odrl, {"@context": "http://www.w3.org/ns/odrl.jsonld", "@type": "Offer",
                       "uid": "http://shop.test/1",
                       "permission": [{"target": "http://shop.test/m", "action": "use"}]}),
    (spec.check_odrl, {"@context": "http://www.w3.org/ns/odrl.jsonld", "@type": "Set",
                       "uid": "http://shop.test/1",
                       "permission": [{"target": "http://shop.test/m", "action": "train"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("check", "value"), TAKEN)
def test_a_check_takes_what_its_specification_shows(
    check: Callable[[Any], None], value: Any
) -> None:
    check(value)


@pytest.mark.parametrize(("check", "value"), REFUSED)
def test_a_check_refuses_what_its_specification_forbids(
    check: Callable[[Any], None], value: Any
) -> None:
    with pytest.raises((AssertionError, KeyError, TypeError)):
        check(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train-ai=y, search=n", (True, None, False)),
        ('train-ai=y, train-ai, search=n, search="n"', (None, None, None)),
        ("train-ai;allow=n, train-ai=y", (True, None, None)),
        ('train-ai;has;parameters="?"', (None, None, None)),
        ("Train-AI=y", (None, None, None)),
    ],
)
def test_preferences_are_read_as_the_draft_reads_them(text: str, said: tuple[Any, ...]) -> None:
    assert tuple(spec.read_preferences(text).values()) == said


def test_the_second_context_of_tdmrep_means_what_the_earlier_object_did() -> None:
    """The Community Group's own file at that address defines the prefix that drafts wrote out."""
    assert CONTEXT == ["http://www.w3.org/ns/odrl.jsonld", "http://www.w3.org/ns/tdmrep.jsonld"]
    assert spec.TDMREP_CONTEXT["tdm"] == "http://www.w3.org/ns/tdmrep#"
    policy = tdm_policy(changed({"limits.field": "research"}), WHERE)
    assert policy is not None
    used = re.findall(r"tdm:[a-z-]+", json.dumps(policy["permission"]))
    assert used and set(used) <= set(spec.TDMREP_CONTEXT.values())


@pytest.mark.parametrize("where", [WHERE, GONE], ids=["open", "withdrawn"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_keeps_the_rules_of_its_specification(kind: str, where: LicensePlace) -> None:
    """A crawler or miner that knows the specification reads the form."""
    document = KINDS[kind]
    spec.check_rsl(rsl(document, where))
    spec.check_tdmrep(tdm_rules(document, where))
    if (policy := tdm_policy(document, where)) is not None:
        spec.check_tdm_policy(policy)
    spec.check_training_assertion(training_assertion(document, where))
    spec.check_odrl(odrl(document, where))
    assert spec.read_preferences(usage_preference(document)) == {
        "train-ai": False, "ai-use": False, "search": None,
    }  # fmt: skip


def permits(document: LicenseDocument, where: LicensePlace = WHERE) -> dict[str, str]:
    found = ElementTree.fromstring(rsl(document, where)).iter(f"{spec.RSL}permits")
    return {str(each.get("type")): str(each.text) for each in found}


def payment(document: LicenseDocument) -> str | None:
    found = ElementTree.fromstring(rsl(document, WHERE)).find(f".//{spec.RSL}payment")
    return None if found is None else found.get("type")


def test_rsl_says_who_may_train_where_and_for_what_pay() -> None:
    assert permits(KINDS["commercial"]) == {"usage": "ai-train"}
    assert permits(KINDS["research"])["user"] == "education non-commercial"
    assert permits(KINDS["narrow"]) == {
        "usage": "ai-train", "user": "non-commercial", "geo": "DE PT",
    }  # fmt: skip
    assert [payment(KINDS[kind]) for kind in ("commercial", "narrow", "research")] == [
        "training", "use", "free",
    ]  # fmt: skip
    assert payment(KINDS["evaluation only"]) is None


@pytest.mark.parametrize(
    ("given", "attested"), [(["ownership"], True), (["authority"], True), (["no-malware"], False)]
)
def test_rsl_attests_rights_only_if_the_license_warrants_them(
    given: list[str], *, attested: bool
) -> None:
    """RSL's attestation says that whoever declares has the rights, or may license them."""
    document = changed({"warranties.given": given})
    legal = ElementTree.fromstring(rsl(document, WHERE)).iter(f"{spec.RSL}legal")
    said = {str(each.get("type")): each.text for each in legal}
    assert said["warranty"] == given[0] and said.get("attestation") == (
        "true" if attested else None
    )


@pytest.mark.parametrize("kind", ["evaluation only", "commercial"])
def test_what_is_not_for_license_is_reserved_in_every_form(kind: str) -> None:
    """A license without training, and one of a withdrawn work, permit nobody to train."""
    document, where = KINDS[kind], WHERE if kind == "evaluation only" else GONE
    assert permits(document, where) == {} and b"ai-all" in rsl(document, where)
    assert tdm_policy(document, where) is None
    assert tdm_rules(document, where) == [{"location": WHERE.work_path, "tdm-reservation": 1}]
    entries = training_assertion(document, where)["data"]["entries"]
    assert entries["cawg.ai_generative_training"] == {"use": "notAllowed"}
    permitted = odrl(document, where).get("permission", [])
    assert not any(rule["action"] == "derive" for rule in permitted)


@pytest.mark.parametrize("where", [WHERE, GONE], ids=["open", "withdrawn"])
def test_a_work_in_the_public_domain_is_reserved_by_nobody(where: LicensePlace) -> None:
    """Nobody owns it: no form names a holder of a copyright, reserves it, or asks for pay."""
    document = of_public_domain()
    written = rsl(document, where)
    spec.check_rsl(written)
    assert b"<copyright" not in written and b"prohibits" not in written
    assert b"attestation" not in written and payment(document) == "free"
    assert permits(document, where) == {"usage": "all"}
    assert tdm_policy(document, where) is None
    (rule,) = rules = tdm_rules(document, where)
    spec.check_tdmrep(rules)
    assert rule["tdm-reservation"] == 0
    assert usage_preference(document) == "train-ai=y, ai-use=y"
    made = training_assertion(document, where)
    spec.check_training_assertion(made)
    assert {each["use"] for each in made["data"]["entries"].values()} == {"allowed"}
    policy = odrl(document, where)
    spec.check_odrl(policy)
    assert policy["@type"] == "Set" and not {"assigner", "prohibition"} & set(policy)
    (permission,) = policy["permission"]
    assert set(permission) == {"target", "action"} and permission["action"] == "use"
    card = rate_card(document, where)
    assert card["permissionNeeded"] is False and "owner" not in json.dumps(card)
    assert (card["grant"]["feeUnits"], card["royalty"]["minimumBps"]) == ("0", 0)
    assert card["open"] is (where is WHERE), "grants of this registration end with it"


@pytest.mark.parametrize("kind", KINDS)
def test_odrl_says_each_right_once(kind: str) -> None:
    """Each of the seven rights is permitted or prohibited, and no two rules conflict."""
    document = KINDS[kind]
    offer = odrl(document, WHERE)
    rules = [*offer.get("permission", []), *offer.get("prohibition", [])]
    purposes = [
        (rule["action"], json.dumps([c for c in rule.get("constraint", [])
                                     if c["leftOperand"] == "purpose"]))
        for rule in rules
    ]  # fmt: skip
    assert len(purposes) == len(set(purposes)) == 7
    granted = sum(
        getattr(document.rights, right) for right in type(document.rights).model_fields
        if right != "excerpts"
    ) + document.rights.excerpts.permitted  # fmt: skip
    assert len(offer.get("permission", [])) == granted


@pytest.mark.parametrize("kind", KINDS)
def test_no_permission_of_odrl_is_free_of_the_grant(kind: str) -> None:
    """ODRL reads a permission without a duty as unconditional; fee and royalty stand once."""
    permissions = odrl(KINDS[kind], WHERE).get("permission", [])
    grants = [[d for d in each["duty"] if d["action"] == "obtainConsent"] for each in permissions]
    assert all(len(each) == 1 for each in grants)
    assert len({duty["uid"] for (duty,) in grants}) == 1
    paid = [
        (each["action"], refinement["unit"])
        for each in permissions
        for duty in each["duty"]
        if duty["action"] != "obtainConsent"
        for refinement in duty["action"][0]["refinement"]
    ]
    assert len(paid) == len(set(paid)) and len(paid) <= 2
    royalty = "urn:viz:term:percent-of-gross-revenue"
    serves = [each["action"] for each in permissions if each["action"] == "present"]
    assert [a for a, unit in paid if unit == royalty] in (serves or [permissions[0]["action"]], [])


def test_the_price_is_in_odrl_and_on_the_rate_card() -> None:
    text = json.dumps(odrl(KINDS["commercial"], WHERE))
    assert '"2.00"' in text and '"8.00"' in text
    card = rate_card(KINDS["commercial"], WHERE)
    assert card["grant"]["feeUnits"] == "2000000" and card["royalty"]["minimumBps"] == 800
    assert card["royalty"]["perMillionUnits"] == "80000" and card["permissionNeeded"] is True
    assert rate_card(KINDS["commercial"], GONE)["open"] is False


def test_the_forms_are_listed_with_their_media_types() -> None:
    """Nothing is served as a type that a browser would run."""
    found = forms(KINDS["odd names"], WHERE)
    assert tuple(each.name for each in found) == NAMES
    assert {each.media_type for each in found} == {
        "application/json", "application/rsl+xml", "application/ld+json", "text/plain",
        "text/html", "text/markdown",
    }  # fmt: skip
    assert form(KINDS["commercial"], WHERE, "../license.json") is None
    assert form(KINDS["evaluation only"], WHERE, "tdm-policy.json") is None
    for each in found:
        assert each.body.decode("utf-8") and "\u202e" not in each.body.decode().replace(
            KINDS["odd names"].canonical.decode(), ""
        )
