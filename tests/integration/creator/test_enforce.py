"""`viz content enforce` on anvil: what an owner does where no honest node serves the adapter."""

from __future__ import annotations

from pathlib import Path

from tests.integration.chain.testnet import Testnet, terms
from tests.integration.creator.relay_desk import LICENSE, new_owner

from viz.domain.units import UINT64_MAX, AdapterId


async def test_anyone_retires_what_a_withdrawal_ends_and_no_more(
    net: Testnet, tmp_path: Path
) -> None:
    """Of two withdrawn works only that of class 2 retires its adapter; the gas is the caller's."""
    desk = new_owner(tmp_path / "home", net)
    creator, trainer = net.sender(2), net.sender(4)
    ends = await net.register_work(creator, terms(revocation_class=2))
    stays = await net.register_work(creator, terms(revocation_class=1))
    ended = await net.register_adapter(trainer, [ends, stays])
    kept = await net.register_adapter(net.sender(5), [stays])
    rpc = ("--rpc", net.anvil.url)
    before = await desk.json("content", "enforce", stays, *rpc, key=False, yes=False)
    assert [each["adapterId"] for each in before["adapters"]] == [ended, kept]
    assert all(each["enforceableFor"] is None for each in before["adapters"])
    for work in (ends, stays):
        await net.done(creator, "ContentRegistry", "withdraw", work)

    looked = await desk.viz("content", "enforce", stays, *rpc, key=False, yes=False)
    assert looked.exit_code == 0 and f"because of work {ends}" in looked.stdout, looked.output
    assert "--key" in looked.stdout, "it says what to do, and sends nothing"
    state = await net.chain.adapter(AdapterId(ended))
    assert state is not None and state.retires_at == UINT64_MAX

    await net.anvil.fund(desk.owner)
    done = await desk.json("content", "enforce", stays, *rpc)
    assert done["enforced"] == [ended]
    first, second = done["adapters"]
    state = await net.chain.adapter(AdapterId(ended))
    assert state is not None and first["retiresAt"] == state.retires_at < UINT64_MAX
    assert (first["enforceableFor"], second["retiresAt"]) == (None, None)

    again = await desk.viz("content", "enforce", stays, *rpc)
    assert again.exit_code == 0 and "nothing to enforce" in again.stdout, again.output


async def test_a_work_without_adapters_or_no_work_at_all(net: Testnet, tmp_path: Path) -> None:
    """Neither is a crash: the first has no adapter, the second is refused."""
    desk = new_owner(tmp_path / "home", net)
    work = await net.register_work(net.sender(2))
    rpc = ("--rpc", net.anvil.url)
    none = await desk.viz("content", "enforce", work, *rpc, key=False, yes=False)
    assert none.exit_code == 0 and f"no adapter holds work {work}" in none.stdout, none.output
    missing = await desk.viz("content", "enforce", 99, *rpc, key=False, yes=False)
    assert missing.exit_code == LICENSE and "no work 99" in missing.stderr, missing.output
