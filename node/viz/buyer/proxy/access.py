"""Decide who may spend through the proxy, by Host, Origin and key.

Owns these checks and the CORS answers. Programs of this machine may spend, and the hosts and web
pages that the buyer names.

A browser runs every site's scripts on the buyer's machine, so a loopback address alone protects
nobody. A page sends its Origin with every request that could spend money, and a rebound DNS name
shows in Host. Both are refused if the buyer did not name them. Only a named page gets CORS headers,
so no other page can read an answer.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from viz.buyer.proxy.openai_errors import refusal
from viz.errors import ConfigError

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
EXPOSED_HEADERS: Final = "Viz-Cost-Units, X-Should-Retry"
PREFLIGHT_S: Final = 600
_SHOWN_CHARS: Final = 100
_HEADER_NAMES: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*"
)


@dataclass(frozen=True, slots=True)
class ProxyAccess:
    """The rules of access. ``local``: the proxy listens on this machine alone."""

    local: bool = True
    key: str = ""
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, host: str, *, key: str = "", hosts: Iterable[str] = (), origins: Iterable[str] = ()
    ) -> ProxyAccess:
        """Return the access rules of a proxy that listens on ``host``; raise ConfigError.

        ``hosts`` and ``origins`` are the names and web pages that the buyer allows.
        """
        local = host in LOOPBACK
        if not local and not key:
            raise ConfigError(
                f"any program that reaches {host} could spend this buyer's money: set a key with "
                "--api-key-file, or leave --host out"
            )
        return cls(local, key, frozenset(map(_host, hosts)), frozenset(map(_origin, origins)))

    def refuse(self, request: web.Request) -> web.Response | None:
        """Return the response that refuses a request; None if the request may spend."""
        return self._foreign_host(request) or self._foreign_page(request) or self._no_key(request)

    def preflight(self, request: web.Request) -> web.Response | None:
        """Answer the CORS preflight of a browser; return None for any other request.

        A preflight carries no key, so it is answered before the key is checked.
        """
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        refused = self._foreign_host(request) or self._foreign_page(request)
        if refused is not None:
            return refused
        headers = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Max-Age": str(PREFLIGHT_S),
        }
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        if _HEADER_NAMES.fullmatch(wanted):
            headers["Access-Control-Allow-Headers"] = wanted
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

    async def tell_browsers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the headers that let a named page read any answer; hide the server's version."""
        response.headers["Server"] = "viz"
        if not self.origins:
            return
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("Origin", "").lower()
        if origin in self.origins:
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS

    def _foreign_host(self, request: web.Request) -> web.Response | None:
        if not self.local and not self.hosts:
            return None  # the key guards the proxy, whatever name it is reached by
        name = _name_in(request.headers.get("Host", ""))
        if name in LOOPBACK or name in self.hosts:
            return None
        shown = _shown(name)
        return refusal(
            403,
            f"this proxy was asked as {shown!r}, and pays only for programs that reach it as "
            f"127.0.0.1 or localhost: if that name is yours, start it with --allow-host {shown}",
            "host-not-allowed",
            "permission_error",
        )

    def _foreign_page(self, request: web.Request) -> web.Response | None:
        origin = request.headers.get("Origin")
        if origin is None:
            # Browsers leave out Origin when a page only reads; Sec-Fetch-Site shows the page then.
            if request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
                return None
            origin = "another site"
        elif origin.lower() in self.origins:
            return None
        shown = _shown(origin)
        return refusal(
            403,
            f"a web page of {shown} asked, and web pages may not spend this buyer's money: if the "
            "page is yours, start the proxy with --allow-origin and the page's origin",
            "origin-not-allowed",
            "permission_error",
        )

    def _no_key(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self.key or hmac.compare_digest(
            given.encode("utf-8", "replace"), self.key.encode("utf-8", "replace")
        ):
            return None
        message = "this proxy pays for programs that give its key as their OPENAI_API_KEY"
        return refusal(401, message, "invalid_api_key")


def _host(text: str) -> str:
    name = _name_in(text.strip())
    if not name or "/" in name or "*" in name or name.split(":")[0] in ("http", "https"):
        raise ConfigError(f"--allow-host {text!r} is not a host name: write it like my-machine.lan")
    return name


def _origin(text: str) -> str:
    parts = urlsplit(text.strip())
    try:
        whole = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    if not whole or not parts.scheme or parts.path not in ("", "/") or parts.query or "*" in text:
        raise ConfigError(
            f"--allow-origin {text!r} is not a web page's origin: write it like https://app.example"
        )
    return f"{parts.scheme}://{parts.netloc}".lower()


def _name_in(header: str) -> str:
    """Return the host name in a Host header, without the port."""
    name = header.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    if name.count(":") == 1:
        name = name.partition(":")[0]
    return name.removesuffix(".")


def _shown(text: str) -> str:
    return "".join(letter for letter in text[:_SHOWN_CHARS] if letter.isprintable())
