"""Send one JSON-RPC request to one endpoint, and return its result.

Owns the time limit of every request, and the translation of every failure into ``viz.errors``.
Invariant: a request ends with a value of the expected shape or with a ``ChainError``.
``ChainUnreachable`` and its subclasses mean that the endpoint is at fault and may be asked again.
A plain ``ChainError`` means that a transaction was refused, ``TransactionFailed`` that it reverts,
its subclass ``TooMuchGas`` that it needs more gas than a transaction may have.
A request is repeated at once only after a broken connection or a gateway's failure. That is safe
for a transaction too: the same bytes are sent again, and no chain executes them twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp

from viz.chain.abi import decode_revert
from viz.chain.answers import InvalidAnswer, shown
from viz.chain.custom_errors import explain
from viz.chain.refusals import (
    Refusal,
    code_of,
    lacks_funds,
    refusal_of,
    revert_data_of,
    words_of,
)
from viz.chain.transport import BoundedProvider, TooLarge
from viz.domain.units import hex_of
from viz.errors import (
    ChainError,
    ChainUnreachable,
    TooMuchGas,
    TransactionFailed,
)

T = TypeVar("T")
_EXECUTES: Final = frozenset({"eth_call", "eth_estimateGas"})
_TRANSACTS: Final = _EXECUTES | {"eth_sendRawTransaction"}
_TOO_MANY_REQUESTS: Final = 429
_TOO_MUCH: Final = (400, 413)
_SERVER_ERRORS: Final = 500
_PAUSES_S: Final = (0.1, 0.2)
_NO_ANSWER: Final = (TimeoutError, aiohttp.ClientError, OSError, TooLarge)


class RateLimited(ChainUnreachable):
    """The endpoint limits the rate of requests: send the same request again later."""


class TooMuchAsked(ChainUnreachable):
    """The endpoint refused a range of blocks: ask for fewer blocks at once."""


class NotSupported(ChainUnreachable):
    """The endpoint does not know the method, or does not keep state that old."""


class EndpointRefused(ChainUnreachable):
    """The endpoint refused, and its message matches none of the known reasons."""


_KINDS: Final[Mapping[Refusal, type[ChainError]]] = {
    Refusal.TOO_OFTEN: RateLimited,
    Refusal.TOO_MUCH: TooMuchAsked,
    Refusal.NOT_SUPPORTED: NotSupported,
    Refusal.NO_HISTORY: NotSupported,
    Refusal.OF_THE_CALL: ChainError,
    Refusal.TOO_BIG: TooMuchGas,
    Refusal.UNCLEAR: EndpointRefused,
}


class Endpoint:
    """One URL; each request takes at most ``timeout_s`` seconds, repetitions included."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._provider = BoundedProvider(url, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close the HTTP session."""
        await self._provider.disconnect()

    @property
    def where(self) -> str:
        """Scheme, host and port: the path and query often carry an access key."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    async def ask(self, method: str, params: Sequence[Any], read: Callable[[Any], T]) -> T:
        """Call a JSON-RPC method and return its result, parsed by ``read``.

        Raises ChainUnreachable and its subclasses, TransactionFailed, and ChainError, as the
        module's docstring says.
        """
        answer = await self._post(method, params)
        if not isinstance(answer, Mapping):
            raise self._invalid(method, answer, "it is not a JSON-RPC response")
        error = answer.get("error")
        if error is not None:
            raise self._refused(method, error)
        if "result" not in answer:
            kind = _KINDS[refusal_of(answer)]
            # Some gateways answer a rate limit with their own JSON, without an error member.
            if kind is RateLimited:
                raise self._refused(method, answer)
            raise self._invalid(method, answer, "it has neither result nor error")
        result = answer["result"]
        try:
            return read(result)
        except InvalidAnswer as error:
            raise self._invalid(method, result, str(error)) from error

    async def _post(self, method: str, params: Sequence[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._repeated(method, params)
        except aiohttp.ClientResponseError as error:
            kind: type[ChainError] = ChainUnreachable
            if error.status == _TOO_MANY_REQUESTS:
                kind = RateLimited
            elif error.status in _TOO_MUCH and method == "eth_getLogs":
                kind = TooMuchAsked
            raise kind(self._unreachable(f"HTTP {error.status}")) from error
        except _NO_ANSWER as error:
            raise ChainUnreachable(self._unreachable(self._reason(error))) from error
        except ValueError as error:
            raise ChainUnreachable(self._unreachable("its answer is not JSON")) from error

    async def _repeated(self, method: str, params: Sequence[Any]) -> Any:
        """Return the answer; ask again at once if the connection broke or a gateway failed."""
        for pause_s in _PAUSES_S:
            try:
                return await self._provider.post(method, params)
            except aiohttp.ClientResponseError as error:
                if error.status < _SERVER_ERRORS:
                    raise
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(pause_s)
        return await self._provider.post(method, params)

    def _unreachable(self, reason: str) -> str:
        return (
            f"the chain at {self.where} cannot be reached ({reason}): start it, or correct its URL "
            "(--rpc; in a node's settings chain.rpc_url)"
        )

    def _invalid(self, method: str, found: Any, why: str) -> ChainUnreachable:
        seen = shown(found)
        said = why if seen in why else f"{seen}: {why}"
        return ChainUnreachable(
            f"the chain at {self.where} gave an invalid answer to {method} ({said}): it is asked "
            "again; if this continues, use another rpc_url (--rpc)"
        )

    def _refused(self, method: str, error: Any) -> ChainError:
        refusal = refusal_of(error, executes=method in _EXECUTES, transacts=method in _TRANSACTS)
        if refusal is Refusal.REVERTED:
            return _failed(revert_data_of(error), words_of(error))
        code = code_of(error)
        reason = words_of(error) + (f", code {code}" if code is not None else "")
        if lacks_funds(reason):
            reason += ". Send the account coins for gas, or use a key that has some"
        refused = _KINDS[refusal](f"the chain at {self.where} refused {method}: {reason}")
        refused.quotes = True
        return refused

    def _reason(self, error: BaseException) -> str:
        reason = str(error) or f"no answer in {self._timeout_s:g} s"
        parts = urlsplit(self.url)
        secret = any(part and part in reason for part in (parts.path.strip("/"), parts.query))
        return type(error).__name__ if secret else reason


def _failed(data: bytes, message: str) -> TransactionFailed:
    """Return the error for a revert, with the contract's custom error explained."""
    revert = decode_revert(data) if data else None
    if revert is None:
        return TransactionFailed(f"the contract refused: {message}")
    return TransactionFailed(
        f"the contract refused: {explain(revert)}",
        contractError=revert.name,
        args={
            name: hex_of(value) if isinstance(value, bytes) else value
            for name, value in revert.args.items()
        },
    )
