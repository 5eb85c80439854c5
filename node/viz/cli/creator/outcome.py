"""Tell an owner which signatures could still be used, and what became of an action."""

from __future__ import annotations

from typing import TYPE_CHECKING

from viz.cli.console import say, show
from viz.domain.display import moment

if TYPE_CHECKING:
    from viz.creator.owner import ActionDone, ProposedAction


def signatures_still_out(proposed: ProposedAction) -> list[tuple[str, str]]:
    """Return a row for each earlier signature that could still be used."""
    return [
        (
            "still out",
            f"an earlier signature, nonce {each.nonce} ({each.what}): whoever has it can use it "
            f"until {moment(each.deadline_s)}",
        )
        for each in proposed.still_out
    ]


def tell_done(word: str, what: str, sent: str, *, on_chain: bool) -> None:
    """Print ``word`` and ``what`` if the chain has it; else that ``sent`` was sent to a node."""
    if on_chain:
        say(f"{word}  {what}  (as the chain has it)")
        return
    said = "only the node says that it is done. --rpc URL looks on the chain"
    say(f"{'sent':<{len(word)}}  {sent}: {said}")


def shown(done: ActionDone, as_json: bool, **more: object) -> bool:
    """Print the action's result as JSON if that was asked for; return whether it was."""
    from viz.domain.units import hex_of

    found = {
        "contentId": int(done.content_id),
        "transaction": hex_of(done.transaction) if done.transaction else None,
        "onChain": done.on_chain,
        **{name: value for name, value in more.items() if value is not None},
    }
    return show(found, as_json=as_json)
