"""A deterministic engine without torch: the same behaviour, invented text.

Tokens are bytes plus three control tokens. The next letter is a hash of adapter, context and seed,
so an answer depends on the adapter and never on the neighbours. Passes the behaviour suite of the
real engine (tests/unit/engine/test_behaviour.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viz.basemodel.detokenise import Detokeniser
from viz.basemodel.safetensor_file import NotSafetensors, parse_header
from viz.domain.ports.engine import (
    DEFAULT_BASE,
    BaseModel,
    FinishReason,
    Generation,
    GenerationRequest,
    Piece,
    TokenLogprob,
)
from viz.domain.units import AdapterId, Hash32
from viz.engine.request_checks import check_adapter_id, check_request
from viz.engine.stop_strings import StopStringFinder
from viz.engine.stream import Stream, StreamState
from viz.errors import EngineOverloaded, InvalidAdapterFile, InvalidRequest

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 2
_TABLE = {byte + 3: bytes((byte,)) for byte in range(256)}
_LETTERS = b"etaoin shrdlu "
_BUFFER_TOKENS = 64


def fake_adapter_file(path: Path, seed: int = 0) -> Path:
    """Write a small well-formed adapter file that the fake engine takes."""
    names = [
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight" for side in "AB"
    ]
    header = {
        "__metadata__": {"lora_alpha": "8.0", "rank": "4"},
        names[0]: {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]},
        names[1]: {"dtype": "F32", "shape": [8, 4], "data_offsets": [128, 256]},
    }
    text = json.dumps(header).encode()
    body = hashlib.shake_256(f"adapter {seed}".encode()).digest(256)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


class FakeEngine:
    """``viz.domain.ports.engine.Engine``, invented but deterministic."""

    def __init__(
        self,
        *,
        max_open: int = 64,
        context_tokens: int = 512,
        script: bytes = b"",
        token_s: float = 0,
    ) -> None:
        """With a ``script`` every answer says that, again and again, to its last token.

        ``token_s``: how long each token takes.
        """
        self._script, self._token_s = script, token_s
        self._model = BaseModel(
            name="fake",
            digest=Hash32(hashlib.sha256(b"fake base").digest()),
            tokenizer_digest=Hash32(hashlib.sha256(b"fake tokenizer").digest()),
            context_tokens=context_tokens,
            vocabulary=259,
            longest_token_bytes=1,
            arithmetic="float32",
            source=DEFAULT_BASE,
        )
        self._max_open = max_open
        self._adapters: dict[AdapterId, bytes] = {}
        self._tasks: dict[asyncio.Task[None], StreamState] = {}
        self._prompts: list[tuple[int, AdapterId]] = []
        self._counts = {"prefilled_tokens": 0.0, "generated_tokens": 0.0}

    @property
    def model(self) -> BaseModel:
        return self._model

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> tuple[int, ...]:
        if not messages:
            raise InvalidRequest("messages is empty: send at least one message")
        ids: list[int] = []
        for message in messages:
            if message.get("role") not in {"system", "user", "assistant"}:
                raise InvalidRequest("unknown role")
            if not isinstance(message.get("content"), str):
                raise InvalidRequest("a message's content is not text")
            ids += [1, *self.encode(f"{message['role']}\n{message['content']}"), 2]
            ids += self.encode("\n")
        return (*ids, 1, *self.encode("assistant\n"), *self.encode(so_far))

    def encode(self, text: str) -> tuple[int, ...]:
        try:
            return tuple(byte + 3 for byte in text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise InvalidRequest("the text holds a lone surrogate: send valid UTF-8") from error

    def count_tokens(self, text: str) -> int:
        return len(self.encode(text))

    async def add_adapter(self, adapter_id: AdapterId, weights: Path) -> None:
        check_adapter_id(adapter_id)
        try:
            data = weights.read_bytes()
            header = parse_header(data, len(data))
        except (OSError, NotSafetensors) as error:
            raise InvalidAdapterFile(f"{weights.name}: {error}") from error
        if not any(".lora_A." in name for name in header.entries):
            raise InvalidAdapterFile(f"{weights.name} holds no LoRA weights")
        self._adapters[adapter_id] = hashlib.sha256(data).digest()

    async def remove_adapter(self, adapter_id: AdapterId) -> None:
        self._adapters.pop(adapter_id, None)

    def adapters(self) -> frozenset[AdapterId]:
        return frozenset(self._adapters)

    async def generate(self, request: GenerationRequest) -> Generation:
        check_request(request, self._model, self._adapters)
        if self._open() >= self._max_open:
            raise EngineOverloaded("the engine is full: try again shortly")
        news = asyncio.Event()
        line = StreamState(news.set)
        task = asyncio.create_task(self._run(request, line, news))
        self._tasks[task] = line
        task.add_done_callback(self._tasks.pop)
        return Stream(line)

    def stats(self) -> Mapping[str, float]:
        return {**self._counts, "open": float(self._open())}

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _open(self) -> int:
        return sum(1 for line in self._tasks.values() if not line.is_ended)

    async def _run(
        self, request: GenerationRequest, line: StreamState, news: asyncio.Event
    ) -> None:
        rules = request.sampling
        limit = min(rules.max_tokens, self._model.context_tokens - len(request.prompt))
        decoder, stops = Detokeniser(_TABLE), StopStringFinder(rules.stop)
        weights = self._adapters.get(request.adapter_id, b"")
        seed = f"{rules.temperature}:{rules.seed}".encode() if rules.temperature else b""
        state = hashlib.sha256(weights + seed + repr(request.prompt).encode()).digest()
        mark = id(request.prompt), request.adapter_id
        self._counts["prefilled_tokens"] += 0 if mark in self._prompts else len(request.prompt)
        self._prompts.append(mark)
        try:
            for made in range(1, limit + 1):
                # Gives way between tokens, as a step of the real engine does.
                await asyncio.sleep(self._token_s)
                while not line.cancelled and made > self._bound(line):
                    news.clear()
                    await news.wait()
                if line.cancelled:
                    line.put(Piece("", (), "cancelled"))
                    return
                state = hashlib.sha256(state + weights).digest()
                if made > 4 and state[0] < 2 and not self._script:
                    text, _ = stops.push(decoder.flush())
                    line.put(Piece(text + stops.flush(), (), "stop"))
                    return
                letter = _LETTERS[state[1] % len(_LETTERS)]
                if self._script:
                    letter = self._script[(made - 1) % len(self._script)]
                token = letter + 3
                self._counts["generated_tokens"] += 1
                text, stopped = stops.push(decoder.push((token,)))
                if not stopped and made == limit:
                    text += stops.flush()
                ended: FinishReason | None
                ended = "stop" if stopped else "length" if made == limit else None
                line.put(Piece(text, (token,), ended, *self._logprobs(token, rules.logprobs)))
                if stopped:
                    return
        except asyncio.CancelledError:
            line.put(Piece("", (), "cancelled"))
            raise
        finally:
            self._prompts.remove(mark)

    @staticmethod
    def _bound(line: StreamState) -> int:
        ahead = line.taken_tokens + _BUFFER_TOKENS
        return ahead if line.allowed_tokens is None else min(ahead, line.allowed_tokens)

    @staticmethod
    def _logprobs(
        token: int, wanted: int | None
    ) -> tuple[tuple[TokenLogprob, ...], tuple[tuple[TokenLogprob, ...], ...]]:
        if wanted is None:
            return (), ()
        text, raw = chr(token - 3), _TABLE[token]
        top = tuple(TokenLogprob(text, token, -0.5 - place, raw) for place in range(wanted))
        return (TokenLogprob(text, token, -0.5, raw),), (top,)


class OneAtATime(FakeEngine):
    """Has room for one sequence: the others begin when it has ended."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._room = asyncio.Lock()

    async def _run(self, *of: Any) -> None:
        async with self._room:
            await super()._run(*of)
