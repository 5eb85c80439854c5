"""Search the works that a node lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from viz.cli.console import AsJson, guarded, run, show, table
from viz.cli.http import LOCAL_NODE, NodeUrl, get_as
from viz.client.node_address import checked
from viz.errors import NodeNotTrusted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from viz.protocol.listing import WorkListing

# A page has 64 listings: more than a node keeps.
MAX_PAGES: Final = 400


@guarded
def search(
    words: Annotated[
        list[str] | None, typer.Argument(help="Words of the title, credit, sample or language.")
    ] = None,
    node: NodeUrl = LOCAL_NODE,
    as_json: AsJson = False,
) -> None:
    """Search the works that a node lists: all words must occur, in upper or lower case.

    A listing is a statement of the work's owner. A node keeps only those that the chain confirms.
    """
    found = run(_search(checked(node), [word.casefold() for word in words or ()]), logs=False)
    if show(found, as_json=as_json):
        return
    rows = [
        (
            each["contentId"],
            each["title"],
            each["credit"],
            each["language"],
            each["kind"],
            each["sizeBytes"],
        )
        for each in found
    ]
    title = f"Works that {node} lists"
    table(title, ("#work", "title", "credit", "language", "kind", "#bytes"), rows)


async def _search(node: str, words: Sequence[str]) -> list[dict[str, Any]]:
    """Return a node's listings with all words, as JSON values."""

    def has_all(listing: WorkListing) -> bool:
        text = " ".join((listing.title, listing.credit, listing.sample, listing.language))
        return all(word in text.casefold() for word in words)

    return [each.to_json() for each in await listed_works(node) if has_all(each)]


async def listed_works(node: str) -> list[WorkListing]:
    """Read a node's listings page by page, and return the works in them, as the node says."""
    from viz.protocol.listing import LISTINGS_PATH, listings_from_json

    found: list[WorkListing] = []
    after = 0
    for _ in range(MAX_PAGES):
        path = f"{LISTINGS_PATH}?after={after}"
        page, following = await get_as(listings_from_json, node, path)
        found += [each.listing for each in page]
        if following is None:
            return found
        if following <= after:
            raise NodeNotTrusted(f"{node} answers the same page of listings again")
        after = int(following)
    return found
