"""Any OpenAI program works through the proxy unmodified, and pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from tests.integration.api.harness import ADAPTER

from viz.buyer.asking import OneNodesAnswer
from viz.buyer.client import BuyerClient
from viz.buyer.proxy.proxy import running_proxy
from viz.errors import ConfigError

MODEL = f"viz-adapter-{ADAPTER}"


class Silent:
    """An answer that began and says nothing more."""

    status = 200

    def __init__(self) -> None:
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    def read_nowait(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


@pytest.fixture
async def url(buyer: BuyerClient) -> AsyncIterator[str]:
    async with running_proxy(buyer) as base_url:
        yield base_url


@pytest.fixture
async def program(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def test_the_official_client_streams_and_pays(
    program: openai.AsyncOpenAI, buyer: BuyerClient
) -> None:
    """Chunks arrive, usage is the receipt's, and the receipt is in the buyer's ledger."""
    stream = await program.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "When is high tide?"}],
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text and usage is not None and usage.completion_tokens > 0
    assert buyer.channel.seq == 1 and buyer.channel.billed_units(ADAPTER) > 0


async def test_a_cost_that_is_not_known_yet_is_not_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover a part may have no bill yet: a program never reads "None" for a number."""
    monkeypatch.setattr(OneNodesAnswer, "cost_units", None)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "When?"}], "stream": True}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/chat/completions", json={**body, "max_tokens": 4}) as response,
    ):
        said = await response.text()
    assert "[DONE]" in said and "cost None" not in said


async def test_a_whole_answer_is_the_streamed_one(program: openai.AsyncOpenAI) -> None:
    """Without streaming the proxy assembles what the node streamed."""
    question: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": "When is high tide?"}
    ]
    whole = await program.chat.completions.create(
        model=MODEL, messages=question, max_tokens=24, temperature=0, logprobs=True
    )
    stream = await program.chat.completions.create(
        model=MODEL, messages=question, max_tokens=24, temperature=0, stream=True
    )
    text = ""
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert whole.choices[0].message.content == text != ""
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage is not None and whole.usage.total_tokens > 0
    assert whole.choices[0].logprobs is not None


async def test_completions_and_models(program: openai.AsyncOpenAI) -> None:
    """The older interface works too, and the models are the node's."""
    done = await program.completions.create(model="fake", prompt="Once", max_tokens=8)
    assert done.choices[0].text
    assert {model.id async for model in program.models.list()} == {"fake", MODEL}


async def test_one_model_is_told_by_id_and_by_name(program: openai.AsyncOpenAI, url: str) -> None:
    """Programs check a model before they use it; people remember names."""
    for asked in (MODEL, "tides", "Tides"):
        model = await program.models.retrieve(asked)
        assert model.id == MODEL
    viz = (await program.models.retrieve(MODEL)).model_extra["viz"]  # type: ignore[index]
    assert (viz["name"], viz["description"]) == ("tides", "knows tides")
    with pytest.raises(openai.NotFoundError, match=r"gpt-9.*viz-adapter-7 \(tides\)") as caught:
        await program.models.retrieve("gpt-9")
    assert (caught.value.code, caught.value.param) == ("unknown-model", "model")


async def test_a_model_is_asked_by_its_name(
    program: openai.AsyncOpenAI, buyer: BuyerClient
) -> None:
    """A name that is one adapter's alone pays that adapter; the answer says which it was."""
    done = await program.chat.completions.create(
        model="tides", messages=[{"role": "user", "content": "When?"}], max_tokens=8
    )
    assert done.model == MODEL and buyer.channel.billed_units(ADAPTER) > 0


async def test_errors_have_openais_shape(program: openai.AsyncOpenAI) -> None:
    """A program sees which parameter of its request was wrong, not a stack trace."""
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        await program.chat.completions.create(
            model="gpt-9", messages=[{"role": "user", "content": "x"}]
        )
    for name, value in (("messages", []), ("temperature", 9), ("frequency_penalty", 1)):
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], name: value}
        with pytest.raises(openai.BadRequestError) as caught:
            await program.chat.completions.create(model=MODEL, max_tokens=5, **body)
        assert caught.value.param == name and caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("asked", [2_048, 10**12])
async def test_a_length_beyond_the_context_is_cut_to_it(
    program: openai.AsyncOpenAI, asked: int
) -> None:
    """Programs ask for the whole context, as other servers let them: the answer is what fits."""
    for name in ("max_tokens", "max_completion_tokens"):
        more: dict[str, Any] = {name: asked}
        done = await program.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "When is high tide?"}], **more
        )
        assert done.choices[0].message.content
        assert done.usage is not None and done.usage.total_tokens <= 2_048


async def test_a_prompt_beyond_the_context_is_named_as_elsewhere(
    program: openai.AsyncOpenAI, buyer: BuyerClient
) -> None:
    """Programs shorten their prompt when they read this code; nothing is paid."""
    long = [{"role": "user", "content": "tide " * 5_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        await program.chat.completions.create(model=MODEL, messages=long)  # type: ignore[arg-type]
    assert caught.value.code == "context_length_exceeded" and buyer.channel.total_units == 0


async def test_what_is_not_served_is_said_in_openais_shape(
    program: openai.AsyncOpenAI, url: str
) -> None:
    """Other routes and methods are errors that a program can read, with what there is instead."""
    with pytest.raises(openai.NotFoundError, match=r"/v1/embeddings.*chat/completions") as caught:
        await program.embeddings.create(model=MODEL, input="x")
    assert (caught.value.code, caught.value.type) == ("unknown-route", "invalid_request_error")
    async with aiohttp.ClientSession() as http:
        async with http.get(url.removesuffix("/v1") + "/models") as response:
            said = (await response.json())["error"]
            assert response.status == 404 and "base URL end in /v1" in said["message"]
        async with http.get(f"{url}/chat/completions") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
            assert (await response.json())["error"]["code"] == "method-not-allowed"
        async with http.post(f"{url}/chat/completions", data=b"[1") as response:
            assert response.status == 400 and "JSON" in (await response.json())["error"]["message"]
        for path in ("/chat/completions", "/nowhere"):
            async with http.post(url + path, data=b"{}", headers={"Expect": "x"}) as response:
                said = (await response.json())["error"]
                assert (response.status, said["code"]) == (417, "http-417")
                assert "100-continue" in said["message"] and said["param"] is None
        async with http.get(f"{url}/models", headers={"Expect": "100-continue"}) as response:
            assert response.status == 200


PAGE = "https://app.example:8443"


@pytest.mark.parametrize(
    ("headers", "code", "said"),
    [
        ({"Origin": "https://evil.test"}, "origin-not-allowed", "evil.test"),
        ({"Origin": "null"}, "origin-not-allowed", "--allow-origin"),
        ({"Origin": "http://127.0.0.1:8403"}, "origin-not-allowed", "--allow-origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "origin-not-allowed", "another site"),
        ({"Host": "evil.test"}, "host-not-allowed", "--allow-host evil.test"),
        ({"Host": "127.0.0.1.evil.test:80"}, "host-not-allowed", "127.0.0.1.evil.test"),
        ({"Host": "[::2]:80"}, "host-not-allowed", "::2"),
        ({"Host": "\u202eevil"}, "host-not-allowed", "evil"),
    ],
)
async def test_a_web_page_cannot_spend_the_money(
    url: str, buyer: BuyerClient, headers: dict[str, str], code: str, said: str
) -> None:
    """A page in the buyer's browser reaches the loopback port, by its own name or a rebound one:
    it is turned away with the option that would let it in, and no answer is readable to it."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    async with aiohttp.ClientSession() as http:
        for ask in (http.get(f"{url}/models", headers=headers),
                    http.post(f"{url}/chat/completions", json=body, headers=headers)):  # fmt: skip
            async with ask as response:
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (403, code)
                assert said in error["message"]
                assert "Access-Control-Allow-Origin" not in response.headers
        preflight = {"Access-Control-Request-Method": "POST", "Origin": PAGE, **headers}
        async with http.options(f"{url}/chat/completions", headers=preflight) as response:
            assert response.status == 403
    assert buyer.channel.total_units == 0


async def test_an_allowed_page_and_an_allowed_name_are_served(buyer: BuyerClient) -> None:
    """The buyer names a page and a machine's name: these, and no others, are answered."""
    async with (
        running_proxy(buyer, key="k", origins=[PAGE + "/"], hosts=["Box.lan"]) as url,
        aiohttp.ClientSession() as http,
    ):
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
            "Access-Control-Request-Private-Network": "true",
        }
        async with http.options(f"{url}/chat/completions", headers=asked) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
            assert response.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
            assert response.headers["Access-Control-Allow-Private-Network"] == "true"
            assert "POST" in response.headers["Access-Control-Allow-Methods"]
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}
        headers = {"Origin": PAGE, "Host": "box.LAN.:9", "Authorization": "Bearer k"}
        async with http.post(f"{url}/chat/completions", json=body, headers=headers) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
            assert response.headers["Vary"] == "Origin"
            assert b"[DONE]" in await response.read()
        refused: tuple[dict[str, str], ...] = (
            {**headers, "Authorization": "Bearer x"},
            {**headers, "Origin": "https://app.example"},
            {**headers, "Host": "other.lan"},
        )
        for each, status in zip(refused, (401, 403, 403), strict=True):
            async with http.get(f"{url}/models", headers=each) as response:
                assert response.status == status


@pytest.mark.parametrize(
    "allowed",
    [{"hosts": ["*"]}, {"hosts": ["http://box"]}, {"hosts": [""]}]
    + [{"origins": [each]} for each in ("*", "app.example", "https://*.example", "https://a/b")],
)
async def test_an_allow_list_names_hosts_and_origins(
    buyer: BuyerClient, allowed: dict[str, Any]
) -> None:
    """What would let every page in, or none because it is misspelt, is refused at the start."""
    with pytest.raises(ConfigError, match="--allow-"):
        async with running_proxy(buyer, **allowed):
            pass


async def test_nobody_spends_without_the_key(buyer: BuyerClient) -> None:
    """With a key no other user of the machine is paid for; beyond the machine there must be one."""
    with pytest.raises(ConfigError, match="--api-key-file"):
        async with running_proxy(buyer, host="0.0.0.0"):
            pass
    async with running_proxy(buyer, key="tide-7") as url:
        for given, allowed in (("any", False), ("tide-70", False), ("tide-7", True)):
            async with openai.AsyncOpenAI(base_url=url, api_key=given, max_retries=0) as program:
                if allowed:
                    assert [model.id async for model in program.models.list()]
                else:
                    with pytest.raises(openai.AuthenticationError, match="key"):
                        await program.models.list()


async def test_a_program_that_gave_up_is_not_paid_for(
    url: str, buyer: BuyerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It will ask again: the answer that nobody waits for is left, not paid to its end."""
    began, left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def endless(*given: Any) -> AsyncIterator[Any]:
        began.set()
        try:
            yield Silent()
        finally:
            left.set()

    monkeypatch.setattr(buyer.api, "generate", endless)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.post(f"{url}/chat/completions", json=body))
        async with asyncio.timeout(20):
            await began.wait()
            asking.cancel()
            await left.wait()
    assert buyer.voucher_signer.lacks_receipts


async def test_a_taken_port_is_named(url: str, buyer: BuyerClient) -> None:
    """The operator learns which port to change."""
    port = int(url.split(":")[2].split("/", maxsplit=1)[0])
    with pytest.raises(ConfigError, match=str(port)):
        async with running_proxy(buyer, port=port):
            pass
