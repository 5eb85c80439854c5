"""Servers that die, lie, forget, or answer as another: each a clear end, for its own stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engine_suite import asked, collect, text_of
from tests.fakes.openai_server import BASE_NAME, FakeModelServer, Misconduct
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter
from tests.integration.engine.upstream_parts import export_tiny, upstream

from viz.basemodel.export import export_base
from viz.domain.ports.engine import Piece
from viz.domain.units import AdapterId
from viz.engine.upstream.engine import UpstreamEngine
from viz.engine.upstream.replica import ReplicaState
from viz.errors import EngineError, EngineOverloaded, InvalidAdapterFile

ADAPTERS = 4


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("tiny"), adapters=ADAPTERS)


def own(server: FakeModelServer) -> list[str]:
    """Return what was loaded into a server beside the adapter that stands for the base."""
    return [name for name in server.loads if not name.startswith("viz-0-")]


class Room:
    """An engine over servers, and the servers."""

    def __init__(self, engine: UpstreamEngine, servers: list[FakeModelServer]) -> None:
        self.engine, self.servers = engine, servers

    async def answer(self, adapter: int = 1, **rules: Any) -> str:
        request = asked(self.engine, adapter, "tide", **{"max_tokens": 12, **rules})
        return text_of(await collect(await self.engine.generate(request)))

    async def until(self, server: int, state: ReplicaState) -> None:
        """Wait until the engine sees a server in this state."""
        async with asyncio.timeout(300):
            while self.engine.replicas[server].state is not state:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def opened(
    root: Path, folder: Path, count: int, adapters: int = 2, **changes: Any
) -> AsyncIterator[Room]:
    servers = [FakeModelServer(root / "out") for _ in range(count)]
    async with upstream(root, folder, servers, **changes) as engine:
        for number in range(1, adapters + 1):
            await engine.add_adapter(AdapterId(number), root / f"{number}.safetensors")
        yield Room(engine, servers)


@pytest.fixture
async def one(tiny_root: Path, tmp_path: Path) -> AsyncIterator[Room]:
    async for room in opened(tiny_root, tmp_path, 1, timeout_s=3.0):
        yield room


@pytest.fixture
async def two(tiny_root: Path, tmp_path: Path) -> AsyncIterator[Room]:
    async for room in opened(tiny_root, tmp_path, 2, timeout_s=3.0):
        yield room


async def broken(room: Room, misconduct: Misconduct, **rules: Any) -> tuple[list[Piece], Exception]:
    """Return what came of an answer of the only server, and how it ended."""
    await room.answer()  # loaded, so that only the answer is at fault
    room.servers[0].misconduct = misconduct
    stream = await room.engine.generate(asked(room.engine, 1, "tide", max_tokens=12, **rules))
    pieces: list[Piece] = []
    with pytest.raises(EngineError) as ended:
        async with asyncio.timeout(300):
            async for piece in stream:
                pieces.append(piece)
    return pieces, ended.value


async def test_a_server_that_dies_is_followed_by_another(two: Room) -> None:
    """The answer goes on where it broke, on another server, and no token comes twice."""
    whole = await two.answer()
    home = next(each for each in two.servers if own(each))
    home.misconduct.die_after = 5
    assert await two.answer() == whole
    assert two.engine.stats()["failovers"] == 1
    assert sum(bool(own(each)) for each in two.servers) == 2


async def test_a_killed_server_comes_back(two: Room) -> None:
    """A dead server takes no request, and one that was started again is used, with its adapters."""
    whole = await two.answer()
    home = next(place for place, each in enumerate(two.servers) if own(each))
    await two.servers[home].stop()
    assert await two.answer() == whole
    await two.until(home, ReplicaState.DOWN)
    await two.servers[home].start()
    await two.until(home, ReplicaState.READY)
    await two.servers[1 - home].stop()
    assert await two.answer() == whole


async def test_a_server_that_cannot_load_adapters_is_not_used(one: Room) -> None:
    """The operator of SGLang, or of vLLM without its setting, reads what the node needs."""
    await one.servers[0].stop()
    await one.until(0, ReplicaState.DOWN)
    one.servers[0].misconduct.no_loading = True
    await one.servers[0].start()
    await one.until(0, ReplicaState.OUT)
    reason = one.engine.replicas[0].reason
    assert "another server is not supported" in reason
    assert "--enable-lora" in reason


async def test_without_any_server_the_answer_is_refused(one: Room) -> None:
    """Nothing is admitted, so nobody pays, while no server answers; later it goes on by itself."""
    await one.servers[0].stop()
    await one.until(0, ReplicaState.DOWN)
    with pytest.raises(EngineOverloaded, match="no server of this model"):
        await one.engine.generate(asked(one.engine))
    await one.servers[0].start()
    await one.until(0, ReplicaState.READY)
    assert await one.answer()


@pytest.mark.parametrize(
    ("misconduct", "tokens"),
    [
        (Misconduct(die_after=1), 4),
        (Misconduct(foreign_token=True), 0),
        (Misconduct(no_token_ids=True), 0),
        (Misconduct(junk=b"{"), 0),
        (Misconduct(junk=b'{"choices": 5}'), 0),
        (Misconduct(junk=b"[" * 50_000), 0),
        (Misconduct(junk=b"x" * 5_000_000), 0),
        (Misconduct(junk=b'{"error": {"message": "out of memory", "code": 500}}'), 0),
        (Misconduct(status=500), 0),
        (Misconduct(status=400), 0),
        (Misconduct(silent_after=0), 0),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_server_that_fails_ends_its_stream_with_an_error(
    one: Room, misconduct: Misconduct, tokens: int
) -> None:
    """What arrived is delivered, once; then a clear error, and never a hang or a made-up token."""
    whole = await one.answer()
    pieces, error = await broken(one, misconduct)
    assert whole.startswith(text_of(pieces))
    assert sum(len(piece.token_ids) for piece in pieces) <= tokens
    assert "server" in str(error)
    one.servers[0].misconduct = Misconduct()
    await one.until(0, ReplicaState.READY)
    assert await one.answer() == whole


async def test_more_tokens_than_asked_for_are_not_billed(one: Room) -> None:
    """A server's counts are its own: an answer has at most what was asked for."""
    whole = await one.answer()
    one.servers[0].misconduct.more_tokens = 50
    stream = await one.engine.generate(asked(one.engine, 1, "tide", max_tokens=12))
    pieces = await collect(stream)
    assert text_of(pieces) == whole
    assert sum(len(piece.token_ids) for piece in pieces) <= 12


async def test_an_end_before_its_time_is_no_end(two: Room) -> None:
    """A server that says the answer is full when it is not does not shorten it."""
    whole = await two.answer()
    next(each for each in two.servers if own(each)).misconduct.early_length = True
    assert await two.answer() == whole


async def test_a_lost_adapter_is_loaded_again(one: Room) -> None:
    """Before the first token, unseen by the buyer."""
    whole = await one.answer()
    server = one.servers[0]
    server.forget(own(server)[0])
    assert await one.answer() == whole
    assert len(own(server)) == 2


async def test_others_go_on_while_one_server_dies(two: Room) -> None:
    """Streams on the other server are not touched, and those that were cut end whole too."""
    alone = [await two.answer(number % 3, max_tokens=30) for number in range(6)]
    for each in two.servers:
        each.misconduct.pause_s = 0.01
    running = [asyncio.create_task(two.answer(n % 3, max_tokens=30)) for n in range(6)]
    await asyncio.sleep(0.1)
    await two.servers[0].stop()
    assert await asyncio.gather(*running) == alone


async def test_adapters_stay_within_the_servers_bound(tiny_root: Path, tmp_path: Path) -> None:
    """Loaded on demand; the least recently used one goes, never one in use."""
    async for room in opened(tiny_root, tmp_path, 1, adapters=ADAPTERS, max_adapters=3):
        first = [await room.answer(number) for number in range(1, ADAPTERS + 1)]
        assert len(set(first)) == ADAPTERS
        assert [await room.answer(number) for number in range(1, ADAPTERS + 1)] == first
        assert room.servers[0].most_adapters == 3
        assert room.engine.stats()["adapter_evictions"] == 2 * ADAPTERS - 2
        room.servers[0].misconduct.pause_s = 0.02
        together = [asyncio.create_task(room.answer(number)) for number in range(1, 4)]
        ended = await asyncio.gather(*together, return_exceptions=True)
        assert room.servers[0].most_adapters == 3
        for answer, expected in zip(ended, first, strict=False):
            assert answer == expected or isinstance(answer, EngineOverloaded)


async def test_an_adapter_that_answers_as_another_takes_the_server_out(two: Room) -> None:
    """vllm 47724: the canary finds it; what that server was answering ends, nothing more is sold
    there, and the other server goes on with the right adapter."""
    right = await two.answer(1)
    await two.answer(2)
    home = next(place for place, each in enumerate(two.servers) if own(each))
    server, replica = two.servers[home], two.engine.replicas[home]
    names = {each.split("-")[1]: each for each in own(server)}
    server.misconduct.pause_s = 0.05
    running = asyncio.create_task(two.answer(1, max_tokens=100))
    while not server.running:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    server.misconduct.answers_as = {names["1"]: names.get("2", BASE_NAME)}
    await replica.ask_all()
    assert replica.state is ReplicaState.OUT
    with pytest.raises(EngineError, match="taken out"):
        await running
    assert two.engine.stats()["servers_out"] == 1
    assert await two.answer(1) == right
    await asyncio.sleep(0.5)
    assert replica.state is ReplicaState.OUT  # and it stays out
    server.misconduct.answers_as = {}
    await server.stop()
    await two.until(home, ReplicaState.DOWN)
    await server.start()
    await two.until(home, ReplicaState.READY)


async def test_an_adapter_that_a_server_ignores_is_refused_alone(one: Room) -> None:
    """vllm 55193: a server that serves the bare base instead sells no answer of this adapter; all
    else on it is right, so all else goes on."""
    other = await one.answer(2)
    name = next(each for each in one.engine._adapters.values() if each.adapter_id == 1).name
    one.servers[0].misconduct.answers_as = {name: BASE_NAME}
    with pytest.raises(EngineError, match="adapter 1 cannot be served here"):
        await one.answer(1)
    assert await one.answer(2) == other
    assert one.engine.replicas[0].state is ReplicaState.READY


async def test_adapters_confused_in_decoding_alone_are_found(one: Room) -> None:
    """A server may be right about every prompt and wrong about what it goes on with."""
    await one.answer(1)
    await one.answer(2)
    first, second = own(one.servers[0])
    one.servers[0].misconduct.decodes_as = {first: second}
    await one.engine.replicas[0].ask_all()
    assert one.engine.replicas[0].state is ReplicaState.OUT
    assert "decodes" in one.engine.replicas[0].reason


async def test_the_base_is_right_where_rows_without_an_adapter_are_not(one: Room) -> None:
    """vLLM 0.32 on CPUs gives such rows the last adapter that it holds: none is ever sent."""
    right = await one.answer(0)
    await one.answer(1)
    one.servers[0].misconduct.answers_as = {BASE_NAME: own(one.servers[0])[0]}
    await one.engine.replicas[0].ask_all()
    assert await one.answer(0) == right


async def test_the_plain_checkpoint_is_not_the_served_function(
    tiny_root: Path, tmp_path: Path
) -> None:
    """E1: a server that loaded the model itself, and not its export, is never used."""
    base = make_tiny_base(tmp_path / "plain")
    export_base(base, tmp_path / "plain-out")  # its policy quantises nothing
    servers = [FakeModelServer(tmp_path / "plain-out")]
    async with upstream(tiny_root, tmp_path, servers) as engine:
        assert engine.replicas[0].state is ReplicaState.OUT
        with pytest.raises(EngineOverloaded):
            await engine.generate(asked(engine, 0))


async def test_a_server_with_less_context_is_not_used(tiny_root: Path, tmp_path: Path) -> None:
    """A request that was admitted must fit wherever it goes."""
    servers = [FakeModelServer(tiny_root / "out", context_tokens=100)]
    async with upstream(tiny_root, tmp_path, servers) as engine:
        assert engine.replicas[0].state is ReplicaState.OUT
        assert "--max-model-len" in engine.replicas[0].reason


async def test_a_rank_above_the_servers_is_refused_at_once(tiny_root: Path, tmp_path: Path) -> None:
    """At the activation, not at the first buyer's request."""
    base = make_tiny_base(tiny_root, quantised=True)
    write_random_adapter(tmp_path / "wide.safetensors", base, rank=32, seed=9)
    async for room in opened(tiny_root, tmp_path, 1, max_rank=16):
        with pytest.raises(InvalidAdapterFile, match="max-lora-rank"):
            await room.engine.add_adapter(AdapterId(9), tmp_path / "wide.safetensors")
        assert AdapterId(9) not in room.engine.adapters()


async def test_unpaid_work_is_bounded(one: Room) -> None:
    """A server computes at most the ahead beyond what is paid, and what is paid is handed on."""
    settings = one.engine._settings
    whole = await one.answer(max_tokens=200)
    one.servers[0].misconduct.pause_s = 0.005
    made = one.servers[0].made_tokens
    stream = await one.engine.generate(asked(one.engine, 1, "tide", max_tokens=200))
    stream.allow(8)
    pieces = [await asyncio.wait_for(anext(stream), 60) for _ in range(8)]
    await asyncio.sleep(0.5)
    assert one.servers[0].made_tokens - made <= 8 + settings.ahead_tokens + 4
    assert one.servers[0].running == 0
    stream.allow(200)
    assert text_of(pieces + await collect(stream)) == whole


async def test_leaving_stops_the_server(one: Room) -> None:
    """A buyer who leaves in the midst of a segment frees the server at once."""
    await one.answer()
    one.servers[0].misconduct.silent_after = 3
    stream = await one.engine.generate(asked(one.engine, 1, "tide", max_tokens=200))
    for _ in range(3):
        await asyncio.wait_for(anext(stream), 60)
    await asyncio.wait_for(stream.cancel(), 2)
    async with asyncio.timeout(5):
        while one.servers[0].running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_other_buyers_prefixes_are_apart(one: Room) -> None:
    """Each answer has a salt of its own, so that time tells nobody what another asked."""
    await asyncio.gather(one.answer(), one.answer())
    asked_for = [each for each in one.servers[0].requests if each["max_tokens"] == 12]
    salts = {each["cache_salt"] for each in asked_for}
    assert len(salts) == 2
    assert all(len(salt) >= 43 for salt in salts)


async def test_one_signers_prefixes_are_together(one: Room) -> None:
    """A chat's next turn finds its beginning at the server; who asks under another key does not."""
    keys = ["a" * 64, "a" * 64, "b" * 64]
    for key in keys:
        request = replace(asked(one.engine, 1, "tide", max_tokens=11), reuse_key=key)
        await collect(await one.engine.generate(request))
    sent = [each["cache_salt"] for each in one.servers[0].requests if each["max_tokens"] == 11]
    assert sent == keys
