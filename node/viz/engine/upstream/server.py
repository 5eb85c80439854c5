"""Call one server: OpenAI's completions with token ids, and vLLM's runtime LoRA.

Owns requests, timeouts, size limits, and the parsing of answers. Servers are not trusted: token ids
are checked against the vocabulary and the request, and the server's own counts are not used.
Invariants: no answer is read beyond its size limit; no wait is longer than ``timeout_s``; if the
reader leaves, the connection is cut, so that the server stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from viz.domain.ports.engine import Sampling
from viz.domain.strict_json import load_json
from viz.engine.sequence import SampledToken
from viz.errors import EngineError
from viz.protocol.sse import SseReader

CONNECT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 4 << 20
# The first event repeats the prompt's ids: seven bytes per token, for a long context.
MAX_EVENT_BYTES: Final = 4 << 20
MAX_WORDS: Final = 200
# vLLM refuses 0. The smallest number has the same effect: only the likeliest token is left.
_LEAST_TOP_P: Final = 1e-6
_ID_PREFIX: Final = "token_id:"


class ServerFault(Exception):
    """The server did not do what was asked; the text gives the reason for the operator's log."""


class ServerGone(ServerFault):
    """It does not answer, broke off, or sent an unreadable answer: ask another one."""


class ServerBusy(ServerFault):
    """It has no capacity now: ask another one, or later."""


class AdapterLost(ServerFault):
    """It no longer knows an adapter that was loaded: load it again."""


class ServerRefused(ServerFault):
    """It refuses this request; another server of the same kind would too."""


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """A part of one sequence: continue ``prompt`` by at most ``max_tokens``.

    ``salt`` separates prefix caches: a prefix is reused only under the same salt.
    """

    model: str
    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    seed: int | None
    end_ids: Sequence[int]
    salt: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """Tokens that arrived together, and the finish reason (None: more will come)."""

    tokens: tuple[SampledToken, ...]
    ended: str | None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server lists; ``parent`` is None for the base model."""

    name: str
    parent: str | None
    context_tokens: int | None


class ModelServer:
    """The calls to one server. The caller closes the HTTP session."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        *,
        timeout_s: float,
        vocabulary: int,
        api_key: str = "",
    ) -> None:
        self._http, self._url = http, url.rstrip("/")
        self._timeout_s, self._vocabulary = timeout_s, vocabulary
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def models(self) -> tuple[ServedModel, ...]:
        """Return the models that the server lists: its base model and its adapters.

        Raises ServerGone, also if the list cannot be read, and ServerRefused.
        """
        answer = await self._call("GET", "/v1/models")
        try:
            return tuple(
                ServedModel(
                    str(each["id"]),
                    None if each.get("parent") is None else str(each["parent"]),
                    None if each.get("max_model_len") is None else int(each["max_model_len"]),
                )
                for each in answer["data"]
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ServerGone("its list of models cannot be read") from error

    async def load(self, name: str, path: str) -> None:
        """Load the PEFT folder at ``path``, as the server sees it, under ``name``.

        Anything loaded under that name before is unloaded first, since its content is unknown.
        Raises ServerRefused, ServerGone.
        """
        body = {"lora_name": name, "lora_path": path}
        try:
            await self._call("POST", "/v1/load_lora_adapter", body)
        except AdapterLost as error:
            raise ServerRefused(
                f"it finds no adapter at {path}: share engine.upstream.folder with it ({error})"
            ) from error
        except ServerRefused as error:
            if "already been loaded" not in str(error):
                raise
            await self.unload(name)
            await self._call("POST", "/v1/load_lora_adapter", body)

    async def unload(self, name: str) -> None:
        """Unload the adapter if the server has it."""
        try:
            await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except AdapterLost:
            return

    async def complete(self, asked: SegmentRequest) -> AsyncGenerator[Arrived, None]:
        """Yield what the server generates, until it ends or the reader closes this generator.

        Raises ServerGone, ServerBusy, AdapterLost, ServerRefused.
        """
        reader = SseReader(MAX_EVENT_BYTES, refusal=EngineError, sender="the server")
        left = asked.max_tokens
        try:
            async with self._http.post(
                f"{self._url}/v1/completions",
                json=self._body(asked),
                headers=self._headers,
                allow_redirects=False,
                timeout=self._timeout(),
            ) as response:
                try:
                    if response.status != 200:
                        raise _fault(response.status, await self._text(response))
                    async for chunk in response.content.iter_any():
                        for event in reader.feed(chunk):
                            if event.data == "[DONE]":
                                return
                            arrived = self._arrived(event.data, asked, left)
                            if arrived is not None:
                                left -= len(arrived.tokens)
                                yield arrived
                finally:
                    # Cut the connection, so that the server stops too if the reader leaves early.
                    response.close()
        except (aiohttp.ClientError, TimeoutError, OSError, EngineError) as error:
            raise ServerGone(_words(error)) from error

    def _body(self, asked: SegmentRequest) -> dict[str, Any]:
        rules = asked.sampling
        body: dict[str, Any] = {
            "model": asked.model,
            "prompt": list(asked.prompt),
            "max_tokens": asked.max_tokens,
            "temperature": rules.temperature,
            "top_p": max(rules.top_p, _LEAST_TOP_P),
            "top_k": rules.top_k or -1,
            # Set explicitly, so that the checkpoint's generation_config.json has no effect.
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": list(asked.end_ids),
            "stream": True,
            "return_token_ids": True,
            "cache_salt": asked.salt,
        }
        if not asked.end_ids:
            body["ignore_eos"] = True
        if asked.seed is not None:
            body["seed"] = asked.seed
        if rules.logprobs is not None:
            body |= {"logprobs": rules.logprobs, "return_tokens_as_token_ids": True}
        return body

    def _arrived(self, data: str, asked: SegmentRequest, left: int) -> Arrived | None:
        """Return an event's tokens, None if it has none. Raises ServerGone, ServerRefused."""
        try:
            told = load_json(data, max_values=None, last_counts=True)
            if "error" in told:
                raise _fault(int(told["error"].get("code") or 500), str(told["error"]))
            if not told["choices"]:
                return None
            (choice,) = told["choices"]
            ids, ended = choice.get("token_ids"), choice.get("finish_reason")
            if ids is None:
                if choice.get("text"):
                    raise ServerRefused("it sends no token ids: use vLLM 0.10.2 or later")
                ids = []
            if not all(type(each) is int and 0 <= each < self._vocabulary for each in ids):
                raise ServerGone("it sent a token that the base model does not have")
            if len(ids) > left:
                raise ServerGone(f"it sent more than the {asked.max_tokens} tokens asked for")
            tokens = self._tokens(ids, choice.get("logprobs"), asked.sampling.logprobs)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ServerGone(f"its answer cannot be read: {_words(error)}") from error
        return Arrived(tokens, None if ended is None else str(ended))

    @staticmethod
    def _tokens(ids: Sequence[int], told: Any, wanted: int | None) -> tuple[SampledToken, ...]:
        if wanted is None or not ids:
            return tuple(SampledToken(each) for each in ids)
        found = []
        tops = told["top_logprobs"] or [None] * len(ids)
        for token, logprob, top in zip(ids, told["token_logprobs"], tops, strict=True):
            named = {
                int(name.removeprefix(_ID_PREFIX)): float(v) for name, v in (top or {}).items()
            }
            ranked = sorted(named.items(), key=lambda pair: -pair[1])[:wanted]
            found.append(SampledToken(token, float(logprob), tuple(ranked)))
        return tuple(found)

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the parsed answer of a call; an answer that is not JSON is returned as text."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.request(
                    method,
                    self._url + path,
                    json=body,
                    headers=self._headers,
                    allow_redirects=False,
                    timeout=self._timeout(),
                ) as response,
            ):
                text = await self._text(response)
                if response.status != 200:
                    raise _fault(response.status, text)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerGone(_words(error)) from error
        try:
            return load_json(text, max_values=None, last_counts=True)
        except (ValueError, RecursionError):
            return text

    @staticmethod
    async def _text(response: aiohttp.ClientResponse) -> str:
        held = bytearray()
        async for chunk in response.content.iter_any():
            held += chunk
            if len(held) > MAX_ANSWER_BYTES:
                response.close()
                raise ServerGone(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
        return held.decode("utf-8", "replace")

    def _timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._timeout_s)


def _fault(status: int, text: str) -> ServerFault:
    words = f"status {status}: {' '.join(text.split())[:MAX_WORDS]}"
    if status == 404:
        if "lora_adapter" not in text and '"Not Found"' in text:
            return ServerRefused(
                f"{words}: it cannot load adapters at run time; start vLLM (another server is not "
                "supported) with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )
        return AdapterLost(words)
    if status in (429, 503):
        return ServerBusy(words)
    return ServerRefused(words) if 300 <= status < 500 else ServerGone(words)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:MAX_WORDS]}".rstrip(": ")
