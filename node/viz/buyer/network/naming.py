"""Find the model that a buyer's words mean, among those on offer.

Owns the ways to name a model in the network: an adapter by its id, which the chain makes unique;
an adapter or a base model by the name that nodes give it; a base model by ``NAME@DIGEST``. Does no
I/O. Invariants:
 - What has the form of an adapter's id means no other model, and neither does the default base
   model's own name (``DEFAULT_BASE``).
 - Names count as the nodes that the buyer allows give them (``at_nodes``).
 - Where several models have a name, neither the number of their nodes nor which of them is cheaper
   decides, because a stranger can announce many nodes and any price. The buyer's own price caps
   count only as the last rule.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from viz.basemodel.source import DEFAULT_BASE_DIGEST
from viz.buyer.terms.offers import DIGEST_DIGITS, as_reference, same_name
from viz.domain.ports.engine import DEFAULT_BASE
from viz.domain.units import BASE_MODEL, Address
from viz.errors import UnknownModel
from viz.protocol.market import MarketModel
from viz.protocol.messages import adapter_named

_OF_DIGEST: Final = "@"
Rule = Callable[[MarketModel], bool]


def called(models: Iterable[MarketModel], wanted: str) -> list[MarketModel]:
    """Return the models that ``wanted`` can mean; an adapter's id means that adapter alone.

    The default base model's own name means that model alone.
    """
    if (adapter_id := adapter_named(wanted)) is not None:
        return [each for each in models if each.adapter_id == adapter_id != BASE_MODEL]
    if means_default(wanted):
        return [each for each in models if is_default(each)]
    if (reference := as_reference(wanted)) is None:
        return [each for each in models if any(same_name(name, wanted) for name in names_of(each))]
    name, digits = reference
    return [
        each
        for each in models
        if each.adapter_id == BASE_MODEL
        and each.weights_digest.hex().startswith(digits)
        and any(same_name(other, name) for other in names_of(each))
    ]


def names_of(model: MarketModel) -> tuple[str, ...]:
    """Return the names of a model: of a base model all that nodes give it, else its title."""
    called = [each.called for each in model.offers if each.called]
    if model.adapter_id == BASE_MODEL:
        return tuple(dict.fromkeys((model.model, *called)))
    return (model.name,)


def at_nodes(model: MarketModel, allows: Callable[[Address], bool]) -> MarketModel | None:
    """Return a model as the allowed nodes offer and call it; None if none of them serves it.

    The default base model keeps its name, and an adapter the title that its trainer gave it.
    """
    offers = [each for each in model.offers if allows(each.node)]
    if not offers:
        return None
    said = [each.called or model.name for each in offers]
    name = model.name
    if not is_default(model) and model.told_by != model.trainer and name not in said:
        name = Counter(said).most_common(1)[0][0]
    offers = [
        replace(each, called="" if called == name else called)
        for each, called in zip(offers, said, strict=True)
    ]
    of_base = model.adapter_id == BASE_MODEL
    return replace(model, model=name if of_base else model.model, name=name, offers=tuple(offers))


def key_of(wanted: str) -> str:
    """Return the key of a name in the buyer's record."""
    return wanted.strip().casefold()


def meaning_of(model: MarketModel) -> str:
    """Return what the buyer's record has for a name: an adapter's id, or a base model's digest."""
    if model.adapter_id != BASE_MODEL:
        return model.model
    return _OF_DIGEST + model.weights_digest.hex()


def narrowed(found: Sequence[MarketModel], rules: Iterable[Rule]) -> list[MarketModel]:
    """Apply the rules in order: each leaves the models that satisfy it, or all if none does."""
    left = list(found)
    for rule in rules:
        left = [each for each in left if rule(each)] or left
    return left


def is_default(model: MarketModel) -> bool:
    """Return whether a model is the default base model (``DEFAULT_BASE``)."""
    return model.adapter_id == BASE_MODEL and model.weights_digest.hex() == DEFAULT_BASE_DIGEST


def means_default(wanted: str) -> bool:
    """Return whether this is the default base model's own name, whatever a node calls so."""
    return same_name(wanted, DEFAULT_BASE)


def meant_without_record(models: Sequence[MarketModel], wanted: str) -> MarketModel | None:
    """Return which of the models with a name it means to a buyer who has used none of them."""
    if means_default(wanted):
        return next((each for each in models if is_default(each)), None)
    return models[0] if len(models) == 1 else None


def references(models: Sequence[MarketModel], name: str = "") -> list[str]:
    """Return a way to name each of these models that means no other of them.

    A base model's is ``NAME@DIGEST``, with as many digits as are necessary; its name is ``name`` if
    a node calls it so.
    """
    digests = {each.weights_digest.hex() for each in models}
    digits = DIGEST_DIGITS
    while len({each[:digits] for each in digests}) < len(digests):
        digits += 1
    found: list[str] = []
    for each in models:
        if each.adapter_id != BASE_MODEL:
            found.append(each.model)
            continue
        names = [other for other in names_of(each) if name and same_name(other, name)]
        found.append(f"{(names or [each.model])[0]}@{each.weights_digest.hex()[:digits]}")
    return found


def shown_ids(
    models: Sequence[MarketModel], meant: Callable[[Sequence[MarketModel], str], MarketModel | None]
) -> list[str]:
    """Return the id under which to show each model, so that each can be asked for by its id.

    It is the model's own, but ``NAME@DIGEST`` for a base model that its name does not mean.
    ``meant`` returns which of the models with a name it means, and raises UnknownModel, or returns
    None, if it means none of them.
    """
    together: dict[str, list[MarketModel]] = defaultdict(list)
    for each in models:
        for key in {key_of(name) for name in names_of(each) if name}:
            together[key].append(each)
    own: dict[str, MarketModel | None] = {}
    found: list[str] = []
    for each in models:
        key = key_of(each.model)
        if each.adapter_id == BASE_MODEL and key not in own:
            try:
                own[key] = meant(together[key], each.model)
            except UnknownModel:
                own[key] = None
        if each.adapter_id != BASE_MODEL or own[key] is each:
            found.append(each.model)
        else:
            bases = [other for other in together[key] if other.adapter_id == BASE_MODEL]
            found.append(references(bases, each.model)[bases.index(each)])
    return found


def told_before(meaning: str, wanted: str, others: Sequence[MarketModel]) -> str:
    """Return how to name what a name meant before, so that none of ``others`` is meant."""
    if not meaning.startswith(_OF_DIGEST):
        return meaning
    digest, reference = meaning.removeprefix(_OF_DIGEST), as_reference(wanted)
    name = reference[0] if reference else wanted.strip()
    hidden = any(
        each.weights_digest.hex().startswith(digest[:DIGEST_DIGITS])
        for each in others
        if each.adapter_id == BASE_MODEL
    )
    return f"{name[:80]}@{digest if hidden else digest[:DIGEST_DIGITS]}"


def used_in(names: Mapping[str, str]) -> Rule:
    """Return the rule that a model was used before by one of these recorded names."""
    used = frozenset(names.values())
    return lambda model: meaning_of(model) in used
