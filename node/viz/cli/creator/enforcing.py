"""Show which adapters hold a work, and retire those that may not: `viz content enforce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    PasswordFile,
    WorkId,
    Yes,
    agreed,
    guarded,
    password,
    run,
    say,
    show,
    table,
)
from viz.cli.own_chain import CreatorRpcOption, own_chain, required_rpc, trusted_deployment
from viz.domain.display import moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eth_account.signers.local import LocalAccount

    from viz.creator.enforcement import AdapterOfWork
    from viz.domain.ports.chain import Deployment

AdaptersAndTime = tuple["tuple[AdapterOfWork, ...]", int]
EnforcerKey = Annotated[
    Path | None,
    typer.Option("--key", help="Encrypted key file that pays the gas. Without: only show."),
]


@guarded
def enforce(
    content_id: WorkId,
    key: EnforcerKey = None,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the adapters that hold a work; with --key, retire those that may not be sold on.

    After a withdrawal of class 2, or when a trainer's license ended, nodes that run Viz retire
    the adapters that they serve. Use this for adapters that no such node serves: anyone may send
    the transaction, with any key. An adapter that holds several works is retired as well if
    another of them requires it.
    """
    from viz.chain.keys import load_key_file

    trusted = trusted_deployment(deployment, folder)
    rpc = required_rpc(rpc, trusted, "which adapters hold a work")
    account = None if key is None else load_key_file(key, password(password_file))
    found, now_s = run(_look(content_id, rpc, trusted))
    if not as_json:
        _print(content_id, found, now_s)
    due = [each for each in found if each.row is not None]
    enforced: list[int] = []
    if due and account is not None:
        ids = [int(each.state.adapter_id) for each in due]
        listed = ", ".join(map(str, ids))
        agreed(f"Retire the adapters {listed} by your own transactions with gas?", yes=yes)
        after = run(_enforce(due, account, rpc, trusted))
        enforced = ids
        new = {each.state.adapter_id: each for each in after}
        found = tuple(new.get(each.state.adapter_id, each) for each in found)
        for each in after if not as_json else ():
            say(f"retired  adapter {each.state.adapter_id}: {_when(each, now_s)}")
    told = {"contentId": content_id, "adapters": [_json(each) for each in found]}
    if show({**told, "enforced": enforced}, as_json=as_json) or enforced:
        return
    if due:
        say("to retire them: the same command with --key KEY, any key with coin for gas")
    elif found:
        say("nothing to enforce: the grants of each adapter permit it, or its date is set")


async def _look(number: int, rpc: str, trusted: Deployment) -> AdaptersAndTime:
    from viz.creator.enforcement import adapters_of
    from viz.domain.units import ContentId

    async with own_chain(rpc, trusted) as chain:
        return await adapters_of(chain, ContentId(number)), await chain.chain_time()


async def _enforce(
    due: Sequence[AdapterOfWork], account: LocalAccount, rpc: str, trusted: Deployment
) -> tuple[AdapterOfWork, ...]:
    from viz.chain.sender import Sender
    from viz.creator.enforcement import enforce as retire

    async with own_chain(rpc, trusted) as chain:
        return await retire(chain, Sender(chain.rpc, account, trusted), due)


def _print(content_id: int, found: Sequence[AdapterOfWork], now_s: int) -> None:
    if not found:
        say(f"no adapter holds work {content_id}")
        return
    rows = [
        (each.state.adapter_id, each.state.trainer, _when(each, now_s), _because(each))
        for each in found
    ]
    columns = ("#adapter", "trainer", "retires", "can be retired")
    table(f"Adapters that hold work {content_id}, as the chain has them", columns, rows)


def _when(each: AdapterOfWork, now_s: int) -> str:
    at_s = each.retires_at_s
    if at_s is None:
        return "no date"
    return f"retired {moment(at_s)}" if at_s <= now_s else moment(at_s)


def _because(each: AdapterOfWork) -> str:
    return "" if each.because_of is None else f"yes, because of work {each.because_of}"


def _json(each: AdapterOfWork) -> dict[str, object]:
    because = each.because_of
    return {
        "adapterId": int(each.state.adapter_id),
        "trainer": each.state.trainer,
        "retiresAt": each.retires_at_s,
        "enforceableFor": None if because is None else int(because),
    }
