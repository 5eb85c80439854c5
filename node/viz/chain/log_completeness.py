"""Compare an endpoint's logs with the contracts' own views, before anything is derived from them.

Works and adapters are numbered from 1 without a gap, so an endpoint that serves no logs, or only
those since some block, lacks a registration that the contract's view counts. Owners have a view,
and so has the newest grant of each trainer. Nothing is concluded from logs that lack what a view
shows: that would look like a lie of the contract, or like no earnings at all.

No view counts grants: one of a trainer without an adapter, in a block whose logs are all hidden, is
not missed. So what trainers paid for grants is never known to be all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from viz.domain.ports.chain import GrantState
from viz.domain.ports.transactions import Event
from viz.domain.statement import contradiction
from viz.domain.units import ZERO_ADDRESS, AdapterId, Address, ContentId, Hash32, Units, hex_of
from viz.errors import ChainError

LogPlace = tuple[int, int]
"""A block, and a log's index in it."""


def logs_missing(what: str, url: str) -> ChainError:
    """Return the error for an endpoint that lacks logs; ``what`` says by which it shows."""
    return ChainError(
        f"{what}, but the endpoint {url} does not serve its event: use an rpc_url (--rpc) that "
        "keeps the logs since the deployment"
    )


def registered_works(events: Iterable[Event]) -> set[int]:
    """Return the ids of the works whose registration is among the events."""
    return {
        int(event.args["tokenId"])
        for event in events
        if (event.contract, event.name) == ("ContentRegistry", "Transfer")
        and event.args["from"] == ZERO_ADDRESS
    }


def registered_adapters(events: Iterable[Event]) -> set[int]:
    """Return the ids of the adapters whose registration is among the events."""
    return {int(event.args["adapterId"]) for event in events if event.name == "AdapterRegistered"}


def require_counted(what: str, seen: Collection[int], count: int, url: str) -> None:
    """Raise ChainError, naming the endpoint, if one of the ids 1 to ``count`` was not seen."""
    lost = next((each for each in range(1, count + 1) if each not in seen), None)
    if lost is not None:
        raise logs_missing(f"{what} {lost} of {count} is registered", url)


def require_owners(events: Iterable[Event], views: Mapping[ContentId, Address], url: str) -> None:
    """Raise ChainError, naming the endpoint, if it lacks a transfer of one of these works."""
    owners = dict.fromkeys(views, ZERO_ADDRESS)
    for event in sorted(events, key=_place):
        if (event.contract, event.name) != ("ContentRegistry", "Transfer"):
            continue
        work = ContentId(event.args["tokenId"])
        if work in owners and event.args["from"] != owners[work]:
            raise logs_missing(f"work {work} became {event.args['from']}'s", url)
        owners[work] = Address(event.args["to"])
    for work, owner in views.items():
        if owners[work] != owner:
            raise logs_missing(f"work {work} became {owner}'s", url)


def require_grants(
    grants: Iterable[Event],
    views: Mapping[Address, GrantState | None],
    registered: Mapping[AdapterId, tuple[Address, LogPlace]],
    url: str,
) -> None:
    """Raise ChainError, naming the endpoint, if it lacks a grant of a work that the chain shows.

    ``grants`` are the events of one work; ``views`` the newest grant of each trainer by the
    contract; ``registered`` who registered each of the work's adapters, and where: each time a
    grant was live.
    """
    by_trainer: dict[Address, list[Event]] = {}
    for event in sorted(grants, key=_place):
        by_trainer.setdefault(Address(event.args["trainer"]), []).append(event)
    for trainer, view in views.items():
        served = by_trainer.get(trainer, [])
        newest = (served[-1].args["termsHash"], served[-1].args["expiresAt"]) if served else None
        if view is None and newest is not None:
            raise contradiction(f"{trainer} has no grant, and its logs give it one")
        if view is not None and newest != (view.terms_hash, view.expires_at):
            raise logs_missing(f"{trainer} acquired a grant of work {view.content_id}", url)
    for adapter_id, (trainer, place) in registered.items():
        if not any(_place(event) < place for event in by_trainer.get(trainer, ())):
            what = f"adapter {adapter_id} was registered under a grant of {trainer}"
            raise logs_missing(what, url)


def require_fees(
    grants: Iterable[Event], paid: Mapping[Hash32, Mapping[Address, Units]], url: str
) -> None:
    """Raise ChainError, naming the endpoint, if the registry paid a fee whose grant it lacks.

    ``grants`` are the events of all works; ``paid`` is what the token moved out of the registry, by
    transaction and recipient.
    """
    fees: dict[tuple[Hash32, Address], Units] = {}
    for event in grants:
        to = (event.transaction_hash, Address(event.args["owner"]))
        fees[to] = fees.get(to, 0) + int(event.args["fee"])
    for transaction, moved in paid.items():
        for owner, units in moved.items():
            if units > fees.get((transaction, owner), 0):
                where = hex_of(transaction)
                raise logs_missing(f"{owner} was paid for a grant in transaction {where}", url)


def require_same_logs(served: Iterable[Event], receipt: Sequence[Event], url: str) -> None:
    """Raise ChainError, naming the endpoint, if a receipt has an event that was not served."""
    places = {_place(event) for event in served}
    for event in receipt:
        if _place(event) not in places:
            where = f"transaction {hex_of(event.transaction_hash)}"
            raise logs_missing(f"{where} has a log {event.name} of {event.contract}", url)


def _place(event: Event) -> LogPlace:
    return event.block_number, event.log_index
