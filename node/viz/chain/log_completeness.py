"""Compare an endpoint's logs with the registries' own counts, before anything is derived from them.

Works and adapters are numbered from 1 without a gap, so an endpoint that serves no logs, or only
those since some block, lacks a registration that the contract's view counts. Nothing is concluded
from such logs: what they lack would look like a lie of the contract, or like no earnings at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from viz.domain.ports.transactions import Event
from viz.domain.units import ZERO_ADDRESS
from viz.errors import ChainError


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
