"""The verbs of a work's owner on anvil: by signature and relayed, directly, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.integration.chain.testnet import Testnet, address
from tests.integration.creator.relay_desk import (
    INPUT,
    LICENSE,
    PASSWORD,
    TERMS,
    UNTRUE,
    OwnerDesk,
    Relay,
    new_owner,
    relaying,
)

from viz.chain.keys import development_account, load_key_file
from viz.creator import until_seen
from viz.domain.eip712 import content_registry_domain, sign
from viz.domain.ports.transactions import Call
from viz.domain.typed_data import Withdraw
from viz.domain.units import ZERO_ADDRESS, ContentId
from viz.errors import TransactionFailed, VizError
from viz.services.licensing.creator_relay import owner_call
from viz.services.work_records import load_record

TRAINER = address(development_account(9))
DEARER = TERMS.replace("250.00", "500.00").replace("all rights", "every right")


async def both_ways(desk: OwnerDesk, relay: Relay, *verb: object) -> Any:
    return await desk.json(*verb, "--node", relay.url, "--rpc", relay.net.anvil.url)


async def test_terms_approval_and_withdrawal_cost_the_owner_no_gas(
    net: Testnet, tmp_path: Path
) -> None:
    """Each verb by one signature; the chain has it, and what was signed was told in words."""
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        place = desk.terms(DEARER)
        way = ("--node", relay.url, "--rpc", net.anvil.url)
        told = await desk.viz("content", "terms", work, place, *way)
        assert told.exit_code == 0, told.output
        for words in (
            "500.000000 vUSD, once for each grant  (until now: 250.000000 vUSD",
            "who has a grant keeps its terms",
            "you pay no gas",
            "as the chain has it",
        ):
            assert words in told.stdout
        done = await both_ways(desk, relay, "content", "approve", work, TRAINER)
        assert done["onChain"]
        assert await net.chain.approved(work, desk.owner, TRAINER)
        for look in (way, way[:2]):
            again = await desk.viz("content", "approve", work, TRAINER, *look)
            assert again.exit_code == INPUT and "already" in again.stderr, again.output
            assert "nothing was signed" in again.stderr and "You sign" not in again.stdout
        await both_ways(desk, relay, "content", "approve", work, TRAINER, "--revoke")
        assert not await net.chain.approved(work, desk.owner, TRAINER)
        told = await desk.viz("content", "withdraw", work, *way)
        assert told.exit_code == 0, told.output
        assert "never: a withdrawal is for ever" in told.stdout and "1 day" in told.stdout
    state = await net.chain.content(work)
    assert state is not None and state.withdrawn_at
    record = load_record(desk.work)
    assert record is not None and record.license["text"] == "every right reserved"
    assert state.terms_hash == record.terms.terms_hash(record.license_hash)
    (kept,) = desk.work.parent.glob("story.txt.*.registration.json")
    assert "all rights reserved" in kept.read_text(encoding="utf-8")
    assert await net.rpc.transaction_count(desk.owner) == 0


async def test_every_verb_by_own_transaction(net: Testnet, tmp_path: Path) -> None:
    """--direct needs no node at all."""
    desk = new_owner(tmp_path / "home", net)
    await net.anvil.fund(desk.owner)
    way = ("--direct", "--rpc", net.anvil.url)
    await desk.json("content", "register", desk.folder / "work", *way)
    work = ContentId(1)
    await desk.json("content", "terms", work, desk.terms(DEARER), *way)
    await desk.json("content", "approve", work, TRAINER, *way)
    assert await net.chain.approved(work, desk.owner, TRAINER)
    await desk.json("content", "withdraw", work, *way)
    state = await net.chain.content(work)
    assert state is not None and state.withdrawn_at


async def test_a_sale_moves_the_work_and_ends_the_sellers_rights(
    net: Testnet, tmp_path: Path
) -> None:
    """Transfer is the owner's own transaction; who bought the work withdraws it, the seller not."""
    seller, buyer = new_owner(tmp_path / "seller", net), new_owner(tmp_path / "buyer", net)
    async with relaying(net) as relay:
        work = await seller.registered(relay)
        await net.anvil.fund(seller.owner)
        rpc = ("--rpc", net.anvil.url)
        await seller.json("content", "transfer", work, buyer.owner, *rpc)
        state = await net.chain.content(work)
        assert state is not None and state.owner == buyer.owner
        refused = await seller.viz("content", "withdraw", work, "--node", relay.url, *rpc)
        assert refused.exit_code == LICENSE and buyer.owner in refused.stderr
        await both_ways(buyer, relay, "content", "withdraw", work)


async def test_bad_input_is_one_line_that_names_the_remedy(net: Testnet, tmp_path: Path) -> None:
    """Nothing is signed and nothing sent for what could not be meant."""
    desk, other = new_owner(tmp_path / "home", net), new_owner(tmp_path / "other", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        way, rpc = ("--node", relay.url, "--rpc", net.anvil.url), ("--rpc", net.anvil.url)
        registry = net.deployment.content_registry
        same = desk.folder / "work"
        cases: list[tuple[OwnerDesk, tuple[object, ...], int, str]] = [
            (desk, ("transfer", work, ZERO_ADDRESS, *rpc), INPUT, "viz content withdraw"),
            (desk, ("transfer", work, registry, *rpc), INPUT, "the ContentRegistry itself"),
            (desk, ("transfer", work, desk.owner, *rpc), INPUT, "owns the work already"),
            (desk, ("transfer", work, "0x12", *rpc), INPUT, "address"),
            (desk, ("approve", work, ZERO_ADDRESS, *way), INPUT, "the trainer's own address"),
            (desk, ("terms", work, same, *way), INPUT, "exactly these terms already"),
            (desk, ("withdraw", 99, *way), LICENSE, "there is no work 99"),
            (other, ("withdraw", work, *way), LICENSE, "only the owner may do this"),
        ]
        for who, words, code, said in cases:
            done = await who.viz("content", *words)
            assert (done.exit_code, done.stderr.count("\n")) == (code, 1), (words, done.output)
            assert said in done.stderr, words
        unasked = await desk.viz("content", "withdraw", work, *way, yes=False)
        assert unasked.exit_code == INPUT and "--yes" in unasked.stderr
        assert not relay.taken
        await both_ways(desk, relay, "content", "withdraw", work)
        for words in (("withdraw", work), ("terms", work, desk.terms(DEARER))):
            done = await desk.viz("content", *words, *way)
            assert done.exit_code == LICENSE and "for ever" in done.stderr, done.output


async def test_done_is_what_the_chain_says(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that keeps the signature and says "done" is caught with --rpc."""
    monkeypatch.setattr(until_seen, "EVERY_S", 0.01)
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        relay.keeps = True
        claimed = "only the node says that it is done. --rpc URL looks on the chain\n"
        for verb, sent in (
            (("terms", work, desk.terms(DEARER)), f"sent     the terms of work {work}"),
            (("approve", work, TRAINER), f"sent      the approval of {TRAINER} for work {work}"),
            (("withdraw", work), f"sent       the withdrawal of work {work}"),
        ):
            done = await desk.viz("content", *verb, "--node", relay.url)
            assert done.exit_code == 0 and f"\n{sent}: {claimed}" in done.stdout, done.output
            for word in ("offered  ", "approved  ", "withdrawn  ", "as the chain has it"):
                assert word not in done.stdout
        done = await desk.viz(
            "content", "withdraw", work, "--node", relay.url, "--rpc", net.anvil.url
        )
        assert done.exit_code == UNTRUE and "the chain does not have it" in done.stderr


@pytest.mark.parametrize(
    ("lies", "said"),
    [
        ({"chainId": 1}, "chain id"),
        ({"contentRegistry": "0x" + "22" * 20}, "ContentRegistry"),
        ({"tokenDecimals": 0}, "token decimals"),
        ({"chainTime": 4_000_000_000}, "the clock"),
        ({"creator": "0x" + "33" * 20}, "0x3333"),
    ],
)
async def test_a_lie_about_the_chain_gets_no_signature(
    net: Testnet, tmp_path: Path, lies: dict[str, Any], said: str
) -> None:
    """What is signed is the trusted deployment's; a signature for another chain is never made."""
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        relay.lies = lies
        done = await desk.viz("content", "withdraw", work, "--node", relay.url)
        assert done.exit_code == UNTRUE and said in done.stderr, done.output
        assert not relay.taken


async def test_an_own_transaction_voids_the_signature_that_a_node_kept(
    net: Testnet, tmp_path: Path
) -> None:
    """A node keeps an approval; the owner takes the approval back by an own transaction. The kept
    signature must be void: else the trainer is approved again, against the owner's will."""
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        relay.keeps = True
        assert (
            await desk.viz("content", "approve", work, TRAINER, "--node", relay.url)
        ).exit_code == 0
        await net.anvil.fund(desk.owner)
        await desk.json(
            "content", "approve", work, TRAINER, "--revoke", "--direct", "--rpc", net.anvil.url
        )
        assert relay.taken is not None
        (kept,) = relay.taken
    with pytest.raises(TransactionFailed):
        await net.sender(1).submit(owner_call(kept.action, kept.signature))
    assert not await net.chain.approved(work, desk.owner, TRAINER)


async def test_no_signature_is_made_below_one_that_is_out(net: Testnet, tmp_path: Path) -> None:
    """A node names a nonce that is ahead and keeps the signature: after what is signed next it
    would become good, and undo it."""
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        relay.keeps, relay.lies = True, {"nonce": "2"}
        early = await desk.viz("content", "approve", work, TRAINER, "--node", relay.url)
        assert early.exit_code == 0, early.output
        relay.keeps, relay.lies = False, None
        revoke = ("content", "approve", work, TRAINER, "--revoke")
        await net.anvil.fund(desk.owner)
        rpc = ("--rpc", net.anvil.url)
        for way in (("--node", relay.url), ("--node", relay.url, *rpc), ("--direct", *rpc)):
            done = await desk.viz(*revoke, *way)
            assert done.exit_code == INPUT and "with nonce 2" in done.stderr, done.output
        for again in ((), rpc):  # the same once more: the older one could only repeat it
            done = await desk.viz("content", "approve", work, TRAINER, "--node", relay.url, *again)
            assert done.exit_code == 0, done.output


@pytest.mark.parametrize("direct", [False, True])
async def test_a_signature_that_is_out_stops_no_other_work_and_no_withdrawal(
    net: Testnet, tmp_path: Path, direct: bool
) -> None:
    """A node that names a false nonce must not stop an owner for an hour: what it holds cannot undo
    the change of another work, nor any withdrawal. The owner is told of it before signing."""
    desk, second = new_owner(tmp_path / "home", net), new_owner(tmp_path / "second", net)
    shutil.copy(desk.folder / "key.json", second.folder / "key.json")
    second.work.write_text("The lamp is lit at dusk. " * 200, encoding="utf-8")
    async with relaying(net) as relay:
        first, other = await desk.registered(relay), await second.registered(relay)
        relay.keeps, relay.lies = True, {"nonce": "77"}
        held = await desk.viz("content", "approve", first, TRAINER, "--node", relay.url)
        assert held.exit_code == 0, held.output
        relay.keeps, relay.lies = False, None
        await net.anvil.fund(desk.owner)
        way = ("--rpc", net.anvil.url, *(("--direct",) if direct else ("--node", relay.url)))
        kept = f"nonce 77 (approval of {TRAINER} for work {first})"
        for verb in (
            ("approve", other, TRAINER),
            ("terms", other, second.terms(DEARER)),
            ("withdraw", other),
            ("withdraw", first),
        ):
            done = await desk.viz("content", *verb, *way)
            assert done.exit_code == 0 and "as the chain has it" in done.stdout, done.output
            assert kept in done.stdout and "can use it until" in done.stdout
    for work in (first, other):
        state = await net.chain.content(work)
        assert state is not None and state.withdrawn_at


async def test_a_withdrawal_by_own_transaction_depends_on_no_nonce(
    net: Testnet, tmp_path: Path
) -> None:
    """A node that holds a signature with the next nonce could use it first, so that a transaction
    with that nonce fails: a withdrawal needs none."""
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        relay.keeps = True
        held = await desk.viz("content", "approve", work, TRAINER, "--node", relay.url)
        assert held.exit_code == 0, held.output
        await net.anvil.fund(desk.owner)
        nonce = await net.chain.registration_nonce(desk.owner)
        await desk.json("content", "withdraw", work, "--direct", "--rpc", net.anvil.url)
    assert await net.chain.registration_nonce(desk.owner) == nonce


async def test_relays_of_owners_are_checked_before_they_cost_gas(
    net: Testnet, tmp_path: Path
) -> None:
    """A signature of the former owner costs the node nothing."""
    desk, thief = new_owner(tmp_path / "home", net), new_owner(tmp_path / "thief", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        before = await net.rpc.transaction_count(net.sender(5).address)
        relay.keeps = True
        assert (await desk.viz("content", "withdraw", work, "--node", relay.url)).exit_code == 0
        relay.keeps = False
        assert relay.taken is not None
        (signed,) = relay.taken
        await net.anvil.fund(desk.owner)
        move = Call("ContentRegistry", "safeTransferFrom", (desk.owner, thief.owner, work))
        await sender_of(desk, net).submit(move)
        with pytest.raises(Exception, match="is not signed by"):
            await relay.desk.relay_action(signed.action, signed.signature)
        assert await net.rpc.transaction_count(net.sender(5).address) == before


async def test_relays_of_withdrawals_that_would_revert_are_not_paid_for(
    net: Testnet, tmp_path: Path
) -> None:
    """A second withdrawal, and one of a work that is none: each with a good signature."""
    desk = new_owner(tmp_path / "home", net)
    key = load_key_file(desk.folder / "key.json", PASSWORD).key
    domain = content_registry_domain(net.deployment.chain_id, net.deployment.content_registry)
    async with relaying(net) as relay:
        work = await desk.registered(relay)

        async def withdraw(work_id: int) -> None:
            nonce = await net.chain.registration_nonce(desk.owner)
            deadline_s = await net.chain.chain_time() + 3_600
            action = Withdraw(ContentId(work_id), nonce, deadline_s)
            await relay.desk.relay_action(action, sign(key, domain.digest(action)))

        await withdraw(work)
        before = await net.rpc.transaction_count(net.sender(5).address)
        for work_id in (work, 99):
            with pytest.raises(VizError):
                await withdraw(work_id)
        assert await net.rpc.transaction_count(net.sender(5).address) == before


async def test_an_owner_sees_its_works_and_its_money(net: Testnet, tmp_path: Path) -> None:
    """The same from a node and from the chain; an account needs a name."""
    desk = new_owner(tmp_path / "home", net)
    await net.register_work(net.sender(2))
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        await net.mint(desk.owner, 1_500_000)
        await net.anvil.fund(desk.owner)
        ways = (("--node", relay.url), ("--rpc", net.anvil.url))
        lists = [await desk.json("content", "list", *way, yes=False) for way in ways]
        assert lists[0] == lists[1] and [each["contentId"] for each in lists[0]] == [work]
        for way in ways:
            told = await desk.viz("content", "list", *way, yes=False)
            assert "on offer" in told.stdout and "250.000000 vUSD" in told.stdout
            told = await desk.viz("wallet", "balance", *way, yes=False)
            assert "1.500000 vUSD" in told.stdout, told.output
            assert ("unchecked" in told.stdout) == (way[0] == "--node")
        nobody = await desk.viz("wallet", "balance", *ways[1], key=False, yes=False)
        assert nobody.exit_code == INPUT and "--key" in nobody.stderr
        await both_ways(desk, relay, "content", "withdraw", work)
        told = await desk.viz("content", "list", *ways[1], yes=False)
        assert "withdrawn 20" in told.stdout


def sender_of(desk: OwnerDesk, net: Testnet) -> Any:
    from viz.chain.keys import load_key_file
    from viz.chain.sender import Sender

    account = load_key_file(desk.folder / "key.json", "correct horse")
    return Sender(net.rpc, account, net.deployment)
