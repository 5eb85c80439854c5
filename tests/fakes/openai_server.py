"""A small OpenAI-compatible server with runtime LoRA: transformers and PEFT behind vLLM's routes.

It answers as vLLM 0.32 does (the integration stage with the real one runs the same tests), computes
on the event loop's thread, and can be told to fail in the ways in which servers fail.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from viz.domain.ports.engine import Sampling
from viz.engine.embedded.sampling import TokenDraw, choose
from viz.engine.sequence import SampledToken

BASE_NAME = "tiny"


@dataclass
class Misconduct:
    """How the server misbehaves; everything off by default.

    ``die_after``: the connection breaks after so many tokens of a request. ``silent_after``: it
    sends nothing more. ``answers_as``: a model's name -> the name whose adapter computes in truth;
    ``decodes_as``: the same, and prompts are right.
    ``more_tokens``: it sends more than asked for. ``claims``: the usage that it claims.
    ``no_loading``: it has no call that loads adapters, as SGLang under vLLM's paths.
    """

    die_after: int | None = None
    silent_after: int | None = None
    answers_as: dict[str, str] = field(default_factory=dict)
    decodes_as: dict[str, str] = field(default_factory=dict)
    more_tokens: int = 0
    foreign_token: bool = False
    early_length: bool = False
    status: int | None = None
    no_token_ids: bool = False
    junk: bytes | None = None
    pause_s: float = 0.0
    no_loading: bool = False


class FakeModelServer:
    """One server over an exported checkpoint; ``start`` it, and ``stop`` it."""

    def __init__(
        self,
        directory: Path,
        *,
        context_tokens: int = 512,
        max_rank: int = 64,
        only_ids: range | None = None,
    ) -> None:
        """``only_ids``: it generates no other tokens, such as those of ASCII text."""
        import torch
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(
            str(directory), dtype=torch.float32
        ).eval()
        config = json.loads((directory / "config.json").read_text())
        self._end_ids = {int(config["eos_token_id"])}
        self._peft: Any = None
        self._context_tokens, self._max_rank, self._only = context_tokens, max_rank, only_ids
        self.adapters: dict[str, str] = {}
        self.misconduct = Misconduct()
        self.prefilled_tokens = 0
        self.made_tokens = 0
        self.running = 0
        self.requests: list[dict[str, Any]] = []
        self.loads: list[str] = []
        self.most_adapters = 0
        self._prefixes: dict[tuple[str, str], list[list[int]]] = {}
        self._port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Serve on a free port, or again on the port of before; return the URL."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._completions),
                web.post("/v1/load_lora_adapter", self._load),
                web.post("/v1/unload_lora_adapter", self._unload),
            ]
        )
        # As a killed process: open connections break, nothing ends in order.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._port = runner.addresses[0][1]
        self._runner = runner
        return f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Break all connections and forget the adapters, as a process that is killed."""
        if self._runner is not None:
            assert self._runner.server is not None
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None
        self.adapters.clear()

    def forget(self, name: str) -> None:
        """Lose an adapter, as a server that was started again behind a proxy."""
        self.adapters.pop(name, None)

    async def _models(self, _request: web.Request) -> web.Response:
        cards = [{"id": BASE_NAME, "parent": None, "max_model_len": self._context_tokens}]
        cards += [{"id": name, "parent": BASE_NAME} for name in self.adapters]
        return web.json_response({"object": "list", "data": cards})

    async def _load(self, request: web.Request) -> web.Response:
        if self.misconduct.no_loading:
            return web.json_response({"detail": "Not Found"}, status=404)
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").is_file():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > self._max_rank:
            return _error(400, f"LoRA rank {rank} is greater than max_lora_rank {self._max_rank}")
        from peft import PeftModel

        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self._model, str(path), adapter_name=name)
            self._peft.eval()
        elif name not in self._peft.peft_config:
            self._peft.load_adapter(str(path), name)
        self.adapters[name] = str(path)
        self.loads.append(name)
        self.most_adapters = max(self.most_adapters, len(self.adapters))
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name = body["model"]
        if self.misconduct.status is not None:
            return _error(self.misconduct.status, "no room")
        if name != BASE_NAME and name not in self.adapters:
            return _error(404, f"The model `{name}` does not exist.")
        if len(body["prompt"]) + body["max_tokens"] > self._context_tokens:
            return _error(400, "maximum context length exceeded")
        self.requests.append(body)
        self.running += 1
        try:
            return await self._stream(request, name, body)
        finally:
            self.running -= 1

    async def _stream(
        self, request: web.Request, name: str, body: dict[str, Any]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        bad, tokens = self.misconduct, list(body["prompt"])
        self._prefill(name, body.get("cache_salt", ""), tokens)
        seed = body.get("seed")
        seed = secrets.randbits(62) if seed is None else seed
        rules = Sampling(
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=max(body["top_k"], 0),
            logprobs=body.get("logprobs"),
        )
        most = body["max_tokens"] + bad.more_tokens
        for made in range(1, most + 1):
            await asyncio.sleep(bad.pause_s)
            if bad.die_after is not None and made > bad.die_after:
                assert request.transport is not None
                request.transport.close()  # what was sent arrives: a reset could overtake it
                return response
            if bad.silent_after is not None and made > bad.silent_after:
                await asyncio.sleep(3_600)
            worn = name if made == 1 else bad.decodes_as.get(name, name)
            found = self._choose(self._logits(worn, tokens)[-1:], TokenDraw(rules, seed, made - 1))
            tokens.append(found.token_id)
            self.made_tokens += 1
            ended = found.token_id in {*self._end_ids, *body["stop_token_ids"]}
            over = made == most or (bad.early_length and made == 2)
            reason = "stop" if ended else "length" if over else None
            event = {"choices": [self._choice(found, rules, reason)], "model": name}
            data = bad.junk or json.dumps(event).encode()
            await response.write(b"data: " + data + b"\n\n")
            if reason:
                break
        usage = {"prompt_tokens": 1, "completion_tokens": 10**9}
        await response.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    def _choose(self, row: Any, draw: TokenDraw) -> SampledToken:
        """Return a token of ``only_ids``, with log-probabilities of all tokens."""
        (found,) = choose(row, [draw])
        assert isinstance(found, SampledToken)
        if self._only is None:
            return found
        row = row.clone()
        row[:, : self._only.start] = row[:, self._only.stop :] = -1e9
        (among,) = choose(row, [draw])
        assert isinstance(among, SampledToken)
        return SampledToken(among.token_id, among.logprob, found.top)

    def _choice(self, found: SampledToken, rules: Sampling, reason: str | None) -> dict[str, Any]:
        token = found.token_id + (10**6 if self.misconduct.foreign_token else 0)
        choice: dict[str, Any] = {
            "index": 0,
            "text": "not what is counted",
            "finish_reason": reason,
            "token_ids": None if self.misconduct.no_token_ids else [token],
            "logprobs": None,
        }
        if rules.logprobs is not None:
            top = {f"token_id:{each}": value for each, value in found.top}
            choice["logprobs"] = {
                "tokens": [f"token_id:{token}"],
                "token_logprobs": [found.logprob],
                "top_logprobs": [top],
            }
        return choice

    def _prefill(self, name: str, salt: str, tokens: list[int]) -> None:
        """Count what is computed of a prompt: what no sequence under the same salt began with."""
        seen = self._prefixes.setdefault((name, salt), [])
        most = max((_common(each, tokens) for each in seen), default=0)
        self.prefilled_tokens += len(tokens) - most
        seen.append(tokens)

    def _logits(self, name: str, tokens: list[int]) -> Any:
        """Return the logits (tokens, vocabulary) under the adapter that answers to ``name``."""
        import torch

        name = self.misconduct.answers_as.get(name, name)
        with torch.inference_mode():
            ids = torch.tensor([tokens])
            if self._peft is None:
                return self._model(input_ids=ids).logits[0]
            if name == BASE_NAME:
                with self._peft.disable_adapter():
                    return self._peft(input_ids=ids).logits[0]
            self._peft.set_adapter(name)
            return self._peft(input_ids=ids).logits[0]


def _common(a: list[int], b: list[int]) -> int:
    return next(
        (place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)
