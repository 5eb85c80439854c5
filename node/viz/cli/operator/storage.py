"""Run `viz storage`: free what no blob needs, and find and repair damaged blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from viz.cli.console import AsJson, DataDir, err, guarded, plain, run, say, show
from viz.cli.operator.daemon import ConfigFile
from viz.domain.display import counted
from viz.domain.units import Cid

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from viz.settings.config import Config
    from viz.storage.store_check import Freed, StoreCheck

app = typer.Typer(no_args_is_help=True, help="Look after the blob store; a node may run meanwhile.")


@app.command("gc")
@guarded
def gc(config: ConfigFile = None, folder: DataDir = None, as_json: AsJson = False) -> None:
    """Delete the blocks that no pinned blob needs.

    In a Kubo daemon, which other programs may use as well, this deletes what nobody pinned.
    """
    freed = run(_gc(_settings(config, folder)))
    told = {"blocks": freed.blocks, "freedBytes": freed.freed_bytes, "keptBytes": freed.kept_bytes}
    if not show(told, as_json=as_json):
        gone = f"{counted(freed.blocks, 'block')}, {counted(freed.freed_bytes, 'byte')}"
        kept = freed.kept_bytes
        say(f"deleted {gone}" + ("" if kept is None else f"; kept {counted(kept, 'byte')}"))


@app.command("verify")
@guarded
def verify(
    source: Annotated[
        list[str] | None,
        typer.Option(help="Gateway to get lost blocks from; repeat it, they are asked in order."),
    ] = None,
    give_up: Annotated[
        list[str] | None,
        typer.Option(help="CID to unpin if it stays damaged, so that others go again; repeat it."),
    ] = None,
    config: ConfigFile = None,
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Read every block of every pinned blob, and get damaged ones again from the sources.

    Deletes nothing. If a blob stays damaged, names the lost blocks and exits with code 8.
    """
    settings = _settings(config, folder)
    named = [Cid(each) for each in dict.fromkeys(give_up or [])]
    found, given_up = run(_verify(settings, source or [], named))
    kept = [each for each in named if each not in given_up]
    told = {
        "blobs": found.blobs,
        "blocks": found.blocks,
        "repaired": found.repaired,
        "lost": found.lost,
        "givenUp": given_up,
        "kept": kept,
    }
    if not show(told, as_json=as_json):
        read = f"read {counted(found.blocks, 'block')} of {counted(found.blobs, 'blob')}"
        say(f"{read}; repaired {len(found.repaired)}")
        for root in given_up:
            say(f"gave up {root}: `viz storage gc` deletes what is left of it")
        for root in kept:
            err.print(_not_given_up(root, found.pinned), markup=False, soft_wrap=True)
        for root, missing in found.lost.items():
            say(f"{root} lacks {counted(len(missing), 'block')}, the first of them {missing[0]}")
        if found.lost and settings.storage.backend == "kubo":
            say(
                "Kubo does not replace a block that it has. If another gateway has these blobs: "
                "`ipfs repo verify --drop` deletes what is damaged, and `viz storage verify "
                "--source URL` gets it again"
            )
        elif found.lost:
            say(
                "name a gateway that has these blobs: viz storage verify --source URL; while one "
                "is damaged, no blob is deleted. If nobody has it: --give-up CID"
            )
    if found.lost:
        raise typer.Exit(8)


def _not_given_up(root: Cid, pinned: Collection[Cid]) -> str:
    if root in pinned:
        return f"did not give up {root}: every block of it is here and whole"
    return (
        f"did not give up {plain(root)}: this store pins no such blob; check the CID, as "
        "`viz storage verify` prints it"
    )


def _settings(config: ConfigFile, folder: DataDir) -> Config:
    from viz.settings.config import load

    return load(config, **({} if folder is None else {"data_dir": str(folder)}))


async def _gc(settings: Config) -> Freed:
    from viz.backends import open_blobs

    store = open_blobs(settings)
    try:
        return await store.gc()
    finally:
        await store.close()


async def _verify(
    settings: Config, urls: Sequence[str], given_up: Sequence[Cid]
) -> tuple[StoreCheck, list[Cid]]:
    """Check and repair; unpin those that stay damaged and are to be given up, and return them."""
    from viz.backends import open_blobs
    from viz.outbound import Outbound
    from viz.storage.gateway import GatewayClient
    from viz.storage.store_check import check_store

    store, peers = open_blobs(settings), Outbound(private_addresses=True)
    try:
        found = await check_store(store, [GatewayClient(peers, url) for url in urls])
        gone = [cid for cid in given_up if found.lost.pop(cid, None)]
        for cid in gone:
            await store.unpin(cid)
        return found, gone
    finally:
        await peers.close()
        await store.close()
