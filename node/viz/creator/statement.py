"""Write a work's statement as table rows, CSV and JSON, and check one against the chain.

Owns the form of a statement: the work, the blocks that it covers with their hashes, a line for each
event that moves money, and the sums. ``viz.domain.statement`` derives the lines. Amounts are base
units as decimal text; times are those of the blocks.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from viz.chain.work_events import WorkEvents, WorkRead
from viz.domain.ports.chain import Deployment
from viz.domain.statement import (
    EARNED,
    FEE,
    PAID,
    AdapterRates,
    StatementLine,
    sum_of_kind,
)
from viz.domain.units import Address, ContentId, Hash32, Units, hex_of
from viz.errors import ChainMismatch, InvalidRequest, VizError
from viz.protocol.wire import JSON_INTEGER_MAX, Reader

_MOST_TRAINERS: Final = 1_000
COLUMNS: Final = (
    "work", "time", "block", "logIndex", "transaction", "kind", "account", "adapter", "node",
    "gross", "works", "royaltyBps", "shareBps", "vouchers", "units", "credited",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statement:
    """What a work earned from the block ``first`` to the last block that was read."""

    deployment: Deployment
    read: WorkRead
    first: int
    times: Mapping[int, int]
    vouchers: Mapping[Hash32, int]

    @property
    def content_id(self) -> ContentId:
        return self.read.history.content_id

    @property
    def lines(self) -> tuple[StatementLine, ...]:
        return self.read.history.within(self.first, self.read.last.number)

    @property
    def adapters(self) -> tuple[AdapterRates, ...]:
        return self.read.adapters

    def sums(self) -> dict[str, Units]:
        """Return the sums; waiting amounts are earned and not distributed yet."""
        history, lines = self.read.history, self.lines
        return {
            "fees": sum_of_kind(lines, FEE),
            "waitingBefore": history.waiting_units(self.first),
            "earned": sum_of_kind(lines, EARNED),
            "paid": sum_of_kind(lines, PAID),
            "waitingAfter": history.waiting_units(self.read.last.number + 1),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the statement as JSON values."""
        return {
            "contentId": int(self.content_id),
            "chainId": self.deployment.chain_id,
            "contentRegistry": self.deployment.content_registry,
            "settlement": self.deployment.settlement,
            "token": self.deployment.token,
            "tokenDecimals": self.deployment.token_decimals,
            "fromBlock": self.first,
            "toBlock": self.read.last.number,
            "toBlockHash": hex_of(self.read.last.hash),
            "toTime": self.read.last.time_s,
            "adapters": [
                {
                    "adapterId": int(each.adapter_id),
                    "trainer": each.trainer,
                    "royaltyBps": each.royalty_bps,
                    "trainerBps": each.trainer_bps,
                    "shareBps": each.share_bps,
                }
                for each in self.adapters
            ],
            "lines": [
                {name: value for name, value in row.items() if value not in ("", "0", False)}
                for row in self.rows()
            ],
            "sums": {name: str(units) for name, units in self.sums().items()},
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each line as a mapping of COLUMNS to values; what a line does not have is empty."""
        for line in self.lines:
            counted = self.vouchers.get(line.transaction) if line.kind == EARNED else None
            values = (
                int(self.content_id),
                self.times[line.block],
                line.block,
                line.log_index,
                hex_of(line.transaction),
                line.kind,
                line.account,
                line.adapter_id or "",
                line.node or "",
                str(line.gross_units or ""),
                str(line.works_units or ""),
                line.royalty_bps or "",
                line.share_bps or "",
                counted or "",
                str(line.units),
                line.credited or "",
            )
            yield dict(zip(COLUMNS, values, strict=True))


def csv_text(statements: Sequence[Statement]) -> str:
    """Return all lines of the statements as CSV with a header; true is ``true``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for statement in statements:
        writer.writerows(
            {name: "true" if value is True else value for name, value in row.items()}
            for row in statement.rows()
        )
    return text.getvalue()


async def make_statement(
    events: WorkEvents,
    deployment: Deployment,
    content_id: ContentId,
    first: int,
    last: int,
    *,
    trainers: Collection[Address] = (),
) -> Statement:
    """Return the statement of a work for the blocks ``first`` to ``last``.

    ``trainers`` are looked up on the chain, whatever its logs have. Raises as ``WorkEvents.read``.
    """
    read = await events.read(content_id, await events.header(last), trainers)
    lines = read.history.within(first, last)
    times = await events.times([line.block for line in lines])
    claims = [line.transaction for line in lines if line.kind == EARNED]
    vouchers = await events.vouchers(claims)
    await events.require_block(read.last)
    return Statement(deployment, read, first, times, vouchers)


async def check_statement(
    events: WorkEvents, deployment: Deployment, said: object
) -> tuple[Statement, list[str]]:
    """Compute the statement of the same blocks; return it, and where the one given differs.

    Raises InvalidRequest for another kind of file, ChainMismatch if it is of another deployment, or
    if its last block was reorganised away or is not there yet, ChainError if the endpoint hides a
    grant that it names.
    """
    reader = Reader(said, "the statement")
    content_id = ContentId(reader.integer("contentId", JSON_INTEGER_MAX))
    reader = Reader(said, f"the statement of work {content_id}")
    last, first = (
        reader.integer("toBlock", JSON_INTEGER_MAX),
        reader.integer("fromBlock", JSON_INTEGER_MAX),
    )
    if first > last:
        raise InvalidRequest(f"the statement is from block {first} to the older block {last}")
    try:
        header = await events.header(last)
    except InvalidRequest as error:
        raise ChainMismatch(
            f"the statement of work {content_id} ends with block {last}, and the chain of --rpc is "
            "not that long: it is behind, or it is another chain. Wait until it has the block, or "
            "name another endpoint with --rpc"
        ) from error
    if header.hash != reader.hash32("toBlockHash"):
        raise ChainMismatch(
            f"the statement of work {content_id} ends with block {last}, "
            f"0x{reader.hash32('toBlockHash').hex()}, and the chain has 0x{header.hash.hex()} "
            "there: it was reorganised, or it is another chain. Have the statement made again"
        )
    here = (deployment.chain_id, deployment.content_registry, deployment.settlement)
    theirs = (
        reader.integer("chainId", JSON_INTEGER_MAX),
        reader.address("contentRegistry"),
        reader.address("settlement"),
    )
    if theirs != here:
        raise ChainMismatch(
            f"the statement of work {content_id} is of chain {theirs[0]} and Settlement "
            f"{theirs[2]}, and you trust {here[0]} and {here[2]}: name its deployment with "
            "--deployment"
        )
    trainers, transactions = _named(said)
    made = await make_statement(events, deployment, content_id, first, last, trainers=trainers)
    ours = {line.transaction for line in made.lines}
    # A line that we do not have is false, or the endpoint hides it.
    await events.require_served(content_id, [each for each in transactions if each not in ours])
    found = made.to_json()
    wrong = list(differences(said, found))
    if wrong and not any(differences(said, _with_agreed_rates(found))):
        wrong = []
    return made, [f"the statement of work {content_id}, {each}" for each in wrong]


def _with_agreed_rates(found: dict[str, Any]) -> dict[str, Any]:
    """Return a statement as it was before lines had the rates that were applied to them.

    Each line of royalties had the adapter's own rate, also after its retirement.
    """
    agreed = {each["adapterId"]: each["royaltyBps"] for each in found["adapters"]}
    lines = []
    for line in found["lines"]:
        told = {name: value for name, value in line.items() if name != "royaltyBps"}
        rate = agreed.get(line.get("adapter"))
        lines.append(told | ({"royaltyBps": rate} if rate else {}))
    return found | {"lines": lines}


def _named(said: object) -> tuple[list[Address], list[Hash32]]:
    """Return the trainers and transactions of the license fees in a statement, where readable."""
    lines = said.get("lines") if isinstance(said, Mapping) else None
    trainers, transactions = dict[Address, None](), dict[Hash32, None]()
    for line in lines if isinstance(lines, list) else ():
        with suppress(VizError):
            reader = Reader(line, "a line")
            if reader.text("kind") == FEE:
                transactions[reader.hash32("transaction")] = None
                trainers[reader.address("account")] = None
    return list(trainers)[:_MOST_TRAINERS], list(transactions)


def differences(said: object, found: object, where: str = "") -> Iterator[str]:
    """Yield a sentence for each value that a statement has and the chain's has not, or otherwise.

    ``where`` is the place of both, as in ``lines[2].units``. True is not 1, and 1.0 is not 1.
    """
    if isinstance(said, Mapping) and isinstance(found, Mapping):
        for name in dict.fromkeys((*found, *said)):
            place = f"{where}.{str(name)[:60]}" if where else str(name)[:60]
            if name not in found:
                yield f"{place}: no statement on this chain has this, so somebody added it"
            elif name not in said:
                yield f"{place}: it is left out, and the chain has {_spelled(found[name])}"
            else:
                yield from differences(said[name], found[name], place)
    elif isinstance(said, list) and isinstance(found, list):
        for number, (theirs, ours) in enumerate(zip(said, found, strict=False)):
            yield from differences(theirs, ours, f"{where}[{number}]")
        if len(said) != len(found):
            yield f"{where}: it has {len(said)}, and the chain {len(found)}"
    elif (type(said), said) != (type(found), found):
        yield f"{where}: it says {_spelled(said)}, and the chain has {_spelled(found)}"


def _spelled(value: object) -> str:
    return json.dumps(value)[:200]
