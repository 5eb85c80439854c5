"""Show what works earn: `viz content royalties` and `viz content statement`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from viz.cli.console import (
    AUDIT_DIFFERENT,
    MOST_WORKS,
    AsJson,
    DataDir,
    DeploymentFile,
    PasswordFile,
    WorkId,
    Yes,
    agreed,
    err,
    guarded,
    lines,
    password,
    plain,
    run,
    say,
    show,
    table,
)
from viz.cli.creator.account_view import SomeKey
from viz.cli.own_chain import CreatorRpcOption, own_chain, required_rpc, trusted_deployment
from viz.domain.display import amount, counted, moment, percent
from viz.errors import InvalidRequest, LicenseError
from viz.given_file import about, read_given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from viz.chain.contracts import Chain
    from viz.chain.work_events import WorkEvents
    from viz.creator.statement import Statement
    from viz.domain.ports.chain import Deployment
    from viz.domain.statement import StatementLine

# On real chains a statement ends this many blocks below the head, because newer blocks may change.
FINAL_BLOCKS: Final = 64
_MAX_STATEMENT_BYTES: Final = 64 * 1024 * 1024
_MAX_STATEMENT_VALUES: Final = 4_000_000
_SHOWN: Final = 20
FEES_ARE_NOT_COUNTED: Final = (
    "no contract counts grants: an endpoint can hide the fee of one without an adapter "
    "(ask another --rpc)"
)
AFTER_RETIREMENT: Final = (
    "100 %: after an adapter's retirement its works get all that it still earns"
)
SomeWorks = Annotated[
    list[int], typer.Argument(min=1, max=MOST_WORKS, help="The works' ids on the chain.")
]


@guarded
def royalties(
    content_id: WorkId,
    distribute: Annotated[
        bool,
        typer.Option("--distribute", help="Also distribute royalties, by your own transactions."),
    ] = False,
    key: SomeKey = None,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what a work has earned so far, by adapter, computed from the chain's logs.

    Anyone may distribute royalties, and nodes do it when they settle. Use --distribute if you do
    not want to wait; it pays all works of these adapters.
    """
    trusted = trusted_deployment(deployment, folder)
    rpc = required_rpc(rpc, trusted, "what a work earned")
    if distribute and key is None:
        raise InvalidRequest("--distribute sends transactions: give the key that pays gas by --key")
    found, ids = run(_all_of(content_id, rpc, trusted))
    if not as_json:
        _print_royalties(found, trusted)
    sent = []
    if distribute and ids:
        assert key is not None
        agreed(f"Distribute the royalties of adapters {ids}, and pay the gas?", yes=yes)
        sent = run(_distribute(ids, key, password(password_file), rpc, trusted))
    if not show({**found.to_json(), "distributed": sent}, as_json=as_json) and sent:
        lines("Distributed", [(f"adapter {each}", "paid to its works' owners") for each in sent])


async def _all_of(number: int, rpc: str, trusted: Deployment) -> tuple[Statement, list[int]]:
    from viz.creator.statement import make_statement
    from viz.domain.units import ContentId

    async with own_chain(rpc, trusted) as chain:
        content_id, events = ContentId(number), _events(chain)
        await _require_work(chain, number)
        head = await chain.rpc.block_number()
        found = await make_statement(events, trusted, content_id, events.first_block, head)
        waiting = found.read.history.undistributed_units
        return found, [int(each) for each, units in sorted(waiting.items()) if units]


async def _distribute(
    ids: list[int], key: Path, secret: str, rpc: str, trusted: Deployment
) -> list[int]:
    from viz.chain.keys import load_key_file
    from viz.chain.sender import Sender
    from viz.domain.ports.transactions import Call
    from viz.domain.shares import Share, share_words
    from viz.domain.units import AdapterId

    async with own_chain(rpc, trusted) as chain:
        sender = Sender(chain.rpc, load_key_file(key, secret), trusted)
        for each in ids:
            state = await chain.adapter(AdapterId(each))
            assert state is not None
            words = list(share_words(Share(*row) for row in state.shares))
            sent = await sender.submit(Call("Settlement", "distribute", (each, words)))
            sent.require_mined(f"distributing the royalties of adapter {each}")
        return ids


def _print_royalties(found: Statement, trusted: Deployment) -> None:
    from viz.domain.statement import EARNED, PAID, sum_of_kind

    rows = []
    for each in found.adapters:
        mine = [line for line in found.lines if line.adapter_id == each.adapter_id]
        earned, paid = sum_of_kind(mine, EARNED), sum_of_kind(mine, PAID)
        rows.append(
            (
                each.adapter_id,
                " and ".join(map(percent, _rates(mine, each.royalty_bps))),
                percent(each.share_bps),
                amount(sum(line.gross_units for line in mine), trusted),
                amount(earned, trusted),
                amount(paid, trusted),
                amount(earned - paid, trusted),
            )
        )
    columns = (
        "#adapter", "#royalty", "#share of it", "#revenue", "#earned", "#paid", "#waits",
    )  # fmt: skip
    table(f"Royalties of work {found.content_id}, from the chain's logs", columns, rows)
    _say_retired(found)
    fees = found.sums()["fees"]
    say(f"training fees  at least {amount(fees, trusted)}, paid to the owner with each grant")
    say(FEES_ARE_NOT_COUNTED)


def _rates(lines: Sequence[StatementLine], agreed_bps: int) -> list[int]:
    """Return the rates at which an adapter's works earned, the agreed one first."""
    from viz.domain.statement import EARNED

    applied = {line.royalty_bps for line in lines if line.kind == EARNED}
    return [agreed_bps, *sorted(applied - {agreed_bps})]


def _say_retired(found: Statement) -> None:
    """Say why the works got more than the royalty, if they did in one of the lines."""
    agreed = {each.adapter_id: each.royalty_bps for each in found.adapters}
    if any(
        line.adapter_id is not None and line.royalty_bps != agreed[line.adapter_id]
        for line in found.lines
    ):
        say(AFTER_RETIREMENT)


@guarded
def statement(
    works: SomeWorks,
    start: Annotated[
        str, typer.Option("--from", help="First day (2026-11-01, UTC) or block. Default: all.")
    ] = "",
    end: Annotated[
        str, typer.Option("--to", help="Day or block after the last one. Default: now.")
    ] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, in base units.")] = False,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check", help="File of statements (JSON) to compute again and compare, all of them."
        ),
    ] = None,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Show line by line which adapters, nodes and rates the earnings of works came from.

    Everything comes from the contracts' events on the chain of --rpc, so anyone can compute the
    same statement: --check does it for a statement (JSON) that somebody sent you, for all works in
    it. Exit code 0: it agrees in every line. 13: it does not; each line and field is named.
    """
    if as_csv and as_json:
        raise InvalidRequest("--csv and --json exclude each other: give one of them")
    if check and (start or end):
        raise InvalidRequest("--check takes the blocks of the file: leave out --from and --to")
    trusted = trusted_deployment(deployment, folder)
    rpc = required_rpc(rpc, trusted, "a statement")
    said, works = _read_statements(check) if check else None, list(dict.fromkeys(works))
    with about(check) if check else nullcontext():
        found, wrong = run(_statements(works, start, end, rpc, trusted, said))
    told: dict[str, Any] = {"statements": [each.to_json() for each in found]}
    if check:
        told |= {"verdict": "different" if wrong else "reproduced", "findings": wrong}
    if as_csv:
        from viz.creator.statement import csv_text

        sys.stdout.write(csv_text(found))
    elif not show(told, as_json=as_json):
        for each in found:
            _print_statement(each, trusted)
        if check and not wrong:
            listed = ", ".join(str(each.content_id) for each in found)
            say(f"{check} agrees with the chain in every line, for the works {listed}")
    if wrong:
        for each_wrong in () if as_json else wrong[:_SHOWN]:
            err.print(plain(f"finding  {each_wrong}"), markup=False, soft_wrap=True)
        if len(wrong) > _SHOWN and not as_json:
            err.print(f"and {counted(len(wrong) - _SHOWN, 'finding')} more: see --json")
        raise typer.Exit(AUDIT_DIFFERENT)


def _read_statements(path: Path) -> list[Any]:
    from viz.domain.strict_json import MemberTwice, load_json

    raw = read_given(path, _MAX_STATEMENT_BYTES)
    try:
        whole = load_json(raw, max_values=_MAX_STATEMENT_VALUES)
        said = whole["statements"]
        assert isinstance(said, list) and said and set(whole) == {"statements"}
    except MemberTwice as error:
        raise InvalidRequest(
            f"{path} cannot be read as a statement: {error}, so that two readers may take "
            "different values. Give what `viz content statement --json` printed"
        ) from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise InvalidRequest(
            f"{path} is not a statement: give what `viz content statement --json` printed"
        ) from error
    return said


async def _statements(
    works: list[int], start: str, end: str, rpc: str, trusted: Deployment, said: list[Any] | None
) -> tuple[list[Statement], list[str]]:
    from viz.creator.statement import check_statement, make_statement
    from viz.domain.units import ContentId

    async with own_chain(rpc, trusted) as chain:
        events = _events(chain)
        if said is not None:
            has = [_work_of(each) for each in said]
            if any(has.count(each) > 1 for each in has):
                raise InvalidRequest(
                    f"the file has statements of works {has}, and one of them twice: what it "
                    "earned would be counted twice. Give what `viz content statement --json` "
                    "printed"
                )
            if not set(works) <= set(has):
                raise InvalidRequest(
                    f"the file has statements of works {has}, and you named {works}: name those "
                    "that it has"
                )
            checked = [await check_statement(events, trusted, each) for each in said]
            return [made for made, _ in checked], [each for _, wrong in checked for each in wrong]
        first, last = await _blocks(chain, events, start, end, trusted)
        for each in works:
            await _require_work(chain, each)
        return [
            await make_statement(events, trusted, ContentId(each), first, last) for each in works
        ], []


def _work_of(said: Any) -> Any:
    return said.get("contentId") if isinstance(said, dict) else None


async def _blocks(
    chain: Chain, events: WorkEvents, start: str, end: str, trusted: Deployment
) -> tuple[int, int]:
    from viz.domain.ports.chain import DEVELOPMENT_CHAINS

    head = await chain.rpc.block_number()
    final = head if trusted.chain_id in DEVELOPMENT_CHAINS else head - FINAL_BLOCKS
    first = await _block(chain, events, start, "--from") if start else events.first_block
    last = await _block(chain, events, end, "--to") - 1 if end else final
    if last > head:
        raise _in_future(end, f"block, {head}")
    first = max(first, events.first_block)
    if first > last:
        asked = f"--from {start or first} --to {end or last}"
        raise InvalidRequest(
            f"{asked} holds no block (blocks {first} to {last}; the chain's last is {head}): give "
            "a --from that is before --to and not in the future",
            param="from",
        )
    return first, last


async def _block(chain: Chain, events: WorkEvents, text: str, option: str) -> int:
    """Return the first block of a day, or the block with the given number."""
    if text.isascii() and text.isdecimal() and len(text) <= 15:
        return int(text)
    try:
        day = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{option} {text[:40]!r} is neither a day (2026-11-01) nor a block's number"
        ) from error
    day = day if day.tzinfo else day.replace(tzinfo=UTC)
    time_s = int(day.timestamp())
    if option == "--to" and time_s > (now_s := await chain.chain_time()):
        raise _in_future(text, f"time, {moment(now_s)}")
    return await events.block_at(time_s)


def _in_future(end: str, newest: str) -> InvalidRequest:
    return InvalidRequest(
        f"--to {end} is after the chain's newest {newest}: leave it out to read until now",
        param="to",
    )


def _events(chain: Chain) -> WorkEvents:
    from viz.chain.work_events import WorkEvents

    return WorkEvents(chain)


async def _require_work(chain: Chain, number: int) -> None:
    from viz.domain.units import ContentId

    if await chain.content(ContentId(number)) is None:
        raise LicenseError(f"there is no work {number} on this chain: check the id")


def _print_statement(found: Statement, trusted: Deployment) -> None:
    rows = []
    agreed_bps = {int(each.adapter_id): each.royalty_bps for each in found.adapters}
    for row in found.rows():
        rate = ""
        if row["royaltyBps"]:
            rate = f"{percent(row['shareBps'])} of {percent(row['royaltyBps'])}"
        elif row["works"]:
            both = f"{percent(agreed_bps[row['adapter']])} and 100 %"
            rate = f"{percent(row['shareBps'])} of {both}"
        gross = amount(int(row["gross"]), trusted) if row["gross"] else ""
        kind = f"{row['kind']}, to collect" if row["credited"] else row["kind"]
        who = row["node"] or row["account"]
        rows.append(
            (moment(row["time"]), kind, row["adapter"], who, row["vouchers"], gross, rate,
             amount(int(row["units"]), trusted))
        )  # fmt: skip
    last = found.read.last
    title = (
        f"Work {found.content_id}, blocks {found.first} to {last.number} ({moment(last.time_s)})"
    )
    columns = (
        "time", "what", "#adapter", "node, trainer or owner", "#vouchers", "#revenue", "rate",
        "#the work's part",
    )  # fmt: skip
    table(title, columns, rows)
    _say_retired(found)
    names = {
        "fees": "training fees",
        "waitingBefore": "royalties that waited before",
        "earned": "royalties earned",
        "paid": "royalties paid",
        "waitingAfter": "royalties that wait now",
    }
    sums = {name: amount(units, trusted) for name, units in found.sums().items()}
    sums["fees"] = f"at least {sums['fees']}"
    lines("Sums", [(names[name], told) for name, told in sums.items()])
    say(FEES_ARE_NOT_COUNTED)
