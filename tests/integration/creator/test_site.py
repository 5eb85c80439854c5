"""Importing a site from a real HTTP server: its rules are kept to, and nothing else is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web
from typer.testing import CliRunner

from viz.cli.main import app as viz
from viz.creator.intake.rights import in_force
from viz.creator.intake.rsl_rules import RslRules
from viz.creator.intake.site import FetchedSite, SiteBounds, SiteReader
from viz.creator.intake.site_rules import AiTxt, Robots, TdmRules, header_statements
from viz.errors import AddressNotPublic, InvalidRequest, InvalidWork, NodeUnreachable
from viz.outbound import Outbound

SITEMAP = '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{}</urlset>'
MENU = "<nav><p>Home, books, and a word about me.</p></nav>"
RSL = (
    '<rsl xmlns="https://rslstandard.org/rsl"><content url="{}"><license>{}</license></content>'
    "</rsl>"
)


def page(number: int, head: str = "") -> str:
    told = f"On day {number} the keeper of the light wrote down {number * 7} ships."
    return f"<html><head><title>Day {number}</title>{head}</head><body>{MENU}<p>{told}</p></body>"


@dataclass
class Server:
    """A site in memory: what it answers by path, and what it was asked."""

    answers: dict[str, tuple[str, str]] = field(default_factory=dict)
    headers: dict[str, Mapping[str, str]] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    url: str = ""

    def put(self, path: str, body: str, kind: str = "text/html", **headers: str) -> None:
        self.answers[path] = (body, kind)
        self.headers[path] = {name.replace("_", "-"): value for name, value in headers.items()}

    def diary(self, pages: int = 4) -> None:
        """Put a site with some pages and the sitemap of them."""
        for number in range(1, pages + 1):
            self.put(f"/diary/{number}", page(number))
        listed = [f"<url><loc>{self.url}/diary/{n}</loc></url>" for n in range(1, pages + 1)]
        listed.append("<url><loc>http://169.254.169.254/latest</loc></url>")
        self.put("/sitemap.xml", SITEMAP.format("".join(listed)), "application/xml")

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path
        self.asked.append(path)
        self.agents.add(request.headers["User-Agent"])
        if path in self.status:
            where = {"Location": "/elsewhere"} if self.status[path] in (301, 302) else {}
            return web.Response(status=self.status[path], headers=where)
        if path not in self.answers:
            return web.Response(status=404)
        body, kind = self.answers[path]
        return web.Response(text=body, content_type=kind, headers=self.headers[path])


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    site = web.Application()
    site.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(site, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    made.url = f"http://{host}:{port}"
    yield made
    await runner.cleanup()


@dataclass
class Pace:
    """Waits for nothing, and remembers how long it should have."""

    waited: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)


async def read(
    server: Server,
    path: str = "/",
    *,
    reserved_too: bool = False,
    pace: Pace | None = None,
    bounds: SiteBounds | None = None,
    private: bool = True,
) -> FetchedSite:
    http = Outbound(private_addresses=private)
    try:
        found = SiteReader(
            http, server.url + path, bounds or SiteBounds(), sleep=(pace or Pace()).sleep
        )
        return await found.read(reserved_too=reserved_too)
    finally:
        await http.close()


async def test_pages_of_the_sitemap_are_read_in_order_at_the_sites_pace(server: Server) -> None:
    """Only of its own host, below the named address, with the name of who asks and its delay."""
    server.diary()
    server.put("/robots.txt", "User-agent: *\nCrawl-delay: 7\nDisallow: /diary/3\n", "text/plain")
    pace = Pace()
    site = await read(server, pace=pace)
    assert [each.url.removeprefix(server.url) for each in site.pages] == [
        "/diary/1", "/diary/2", "/diary/4",
    ]  # fmt: skip
    assert "/diary/3" not in server.asked, "what robots.txt bars is not asked for"
    assert {"robots.txt bars viz-import", "1 addresses are elsewhere"} <= {
        each["why"] for each in site.left_out
    }
    assert set(pace.waited) == {7.0} and len(pace.waited) == len(server.asked) - 1
    assert all(agent.startswith("viz-import/") for agent in server.agents)
    assert not in_force(site.opt_outs)


async def test_a_private_address_and_a_redirect_are_not_followed(server: Server) -> None:
    """A site may not make this machine ask its own network, nor lead elsewhere."""
    server.diary(2)
    server.status["/diary/2"] = 302
    site = await read(server)
    assert len(site.pages) == 1 and "/elsewhere" not in server.asked
    assert any("redirect" in each["why"] for each in site.left_out)
    with pytest.raises(AddressNotPublic):
        await read(server, private=False)
    for odd in ("ftp://host/", "https://user:secret@host/", "https:///"):
        with pytest.raises(InvalidRequest):
            SiteReader(Outbound(), odd, SiteBounds())


async def test_no_address_goes_around_the_rules_by_its_form(server: Server) -> None:
    """What is asked for is what the rules were asked about: dots in a path are followed first."""
    barred = ("/secret", "/diary/private")
    server.put("/robots.txt", "User-agent: *\nDisallow: /secret\nDisallow: /diary/private\n")
    for path in (*barred, "/reserved/1", "/diary/1"):
        server.put(path, page(1))
    server.put("/ai.txt", "User-Agent: *\nDisallow: /reserved\n", "text/plain")
    odd = (
        "/diary/../secret", "/diary/%2e%2e/secret", "/diary/./private", "/diary/x/../private",
        "/diary/.%2E/reserved/1", "/diary/../diary/1", "/diary/%2E%2E%2Fsecret",
        "/diary/..;/secret", "/diary/%252e%252e/secret",
    )  # fmt: skip
    listed = "".join(f"<url><loc>{server.url}{path}#top</loc></url>" for path in odd)
    server.put("/sitemap.xml", SITEMAP.format(listed), "application/xml")
    site = await read(server, "/diary/", reserved_too=True)
    assert [each.url for each in site.pages] == [f"{server.url}/diary/1"]
    assert not {*barred, "/reserved/1"} & set(server.asked)
    assert not any(".." in unquote(unquote(path)) for path in server.asked)
    with pytest.raises(InvalidWork, match="bars viz-import"):
        await read(server, "/diary/../secret")


async def test_a_barred_or_unreadable_site_is_not_fetched(server: Server) -> None:
    """robots.txt that bars everything, or that answers an error, stops before any page."""
    server.diary()
    server.put("/robots.txt", "User-agent: *\nDisallow: /\n", "text/plain")
    with pytest.raises(InvalidWork, match=r"robots\.txt"):
        await read(server)
    server.status["/robots.txt"] = 503
    with pytest.raises(NodeUnreachable, match="rules cannot be read"):
        await read(server)
    assert not [path for path in server.asked if path.startswith("/diary")]


@pytest.mark.parametrize(
    ("path", "body", "scheme", "value"),
    [
        ("/robots.txt", "User-agent: GPTBot\nDisallow: /\n", "robots.txt", "GPTBot"),
        ("/robots.txt", "Content-Usage: train-ai=n\n", "AI Preferences", "train-ai=n"),
        ("/robots.txt", "Content-Signal: search=yes, ai-train=no\n", "Content Signals", "no"),
        ("/robots.txt", "License: https://elsewhere.test/rsl.xml\n", "RSL", "cannot be read here"),
        ("/.well-known/tdmrep.json", '[{"location": "/diary", "tdm-reservation": 1}]', "TDMRep",
         "tdm-reservation: 1"),
        ("/ai.txt", "User-Agent: *\nDisallow: *.html\n", "ai.txt", "*.html"),
        ("/ai.txt", "Leave us alone.", "ai.txt", "cannot be read"),
        ("/.well-known/tdmrep.json", "not JSON", "TDMRep", "cannot be read"),
    ],
)  # fmt: skip
async def test_what_reserves_stops_before_a_page_is_fetched_and_is_named(
    server: Server, path: str, body: str, scheme: str, value: str
) -> None:
    """Who has not signed for the rights fetches nothing more; who has gets pages and statements."""
    server.diary()
    server.put(path, body, "text/plain")
    site = await read(server)
    (first, *_) = in_force(site.opt_outs)
    assert first.scheme == scheme and value in first.value
    assert not site.pages and not [each for each in server.asked if each.startswith("/diary")]
    signed = await read(server, reserved_too=True)
    assert len(signed.pages) == 4 and in_force(signed.opt_outs) == [first]


async def test_a_page_that_reserves_by_header_or_link_is_named(server: Server) -> None:
    """Headers and links are read with the page; another page's permission changes nothing."""
    server.diary()
    server.put("/.well-known/tdmrep.json", '[{"location": "/", "tdm-reservation": 0}]')
    server.put("/diary/2", page(2), tdm_reservation="1")
    server.put("/diary/4", page(4, '<link rel="license" type="application/rsl+xml" href="/r.xml">'))
    payment = '<permits type="usage">ai-train</permits><payment type="purchase"/>'
    server.put("/r.xml", RSL.format("/diary/4", payment), "application/xml")
    found = in_force((await read(server, reserved_too=True)).opt_outs)
    assert [(each.scheme, each.where.rpartition("/")[2]) for each in found] == [
        ("TDMRep", "2"), ("RSL", "r.xml"),
    ]  # fmt: skip
    assert "payment" in found[1].value


async def test_a_site_is_bounded_in_pages_and_bytes(server: Server) -> None:
    """What is beyond is told, and not fetched."""
    server.diary(9)
    site = await read(server, bounds=SiteBounds(pages=3))
    assert len(site.pages) == 3 and len([p for p in server.asked if "diary" in p]) == 3
    assert any("--max-pages" in each["why"] for each in site.left_out)
    site = await read(server, bounds=SiteBounds(bytes=400))
    assert 0 < len(site.pages) < 4
    assert any("bytes" in each["why"] for each in site.left_out)
    with pytest.raises(InvalidRequest):
        await read(server, bounds=SiteBounds(pages=5_000))


@pytest.mark.parametrize(
    ("license_text", "reserving"),
    [
        ('<permits type="usage">ai-train</permits>', ""),
        ('<permits type="usage">all</permits><payment type="free"/>', ""),
        ('<prohibits type="usage">ai-all</prohibits>', "prohibits ai-all"),
        ('<permits type="usage">search</permits>', "permits other uses only"),
        ('<permits type="usage">ai-train</permits><payment type="use"/>', "payment"),
        ('<permits type="usage">ai-train</permits><permits type="geo">EU</permits>', "geo"),
        ('<permits type="usage">ai-train</permits><prohibits type="user">commercial</prohibits>',
         "user"),
        ('<permits type="usage">ai-train</permits><reporting type="audit" profile="urn:x"/>',
         "reports"),
        ('<permits type="usage">ai-train</permits></license><license>'
         '<prohibits type="usage">ai-train</prohibits>', "prohibits ai-train"),
        ('<permits type="usage">ai-train</permits></license><license>'
         '<permits type="usage">search</permits>', ""),
        ("", ""),
    ],
)  # fmt: skip
def test_an_rsl_license_is_read_as_its_lists_say(license_text: str, reserving: str) -> None:
    """``permits`` is a closed list; payment or conditions need a license first."""
    rules = RslRules()
    rules.add("https://a.test/rsl.xml", RSL.format("/diary/*", license_text).encode())
    (said,) = rules.statements("https://a.test/diary/1")
    assert said.says == ("reserved" if reserving else "allowed") and reserving in said.value
    assert rules.statements("https://a.test/about") == []


def test_an_rsl_server_and_an_odd_reservation_reserve() -> None:
    """A license that a server gives out has to be asked for; only zero says that nothing is."""
    rules = RslRules()
    server = RSL.format("/", '<permits type="usage">ai-train</permits>').replace(
        'url="/"', 'url="/" server="https://licenses.test"'
    )
    rules.add("https://a.test/rsl.xml", server.encode())
    assert [each.says for each in rules.statements("https://a.test/")] == ["reserved"]
    for value in ("1", '"1"', "2", "true", "false", "null", '"0"'):
        listed = TdmRules.parse(f'[{{"location": "/", "tdm-reservation": {value}}}]'.encode())
        assert [each.says for each in listed.statements("https://a.test/")] == ["reserved"], value
    assert [s.says for s in header_statements({"tdm-reservation": "true"})] == ["reserved"]
    assert [s.says for s in header_statements({"tdm-reservation": " 0 "})] == ["allowed"]
    assert header_statements({"tdm-reservation": ""}) == []


@pytest.mark.parametrize(
    "text",
    [
        "User-agent:GPTBot\nDisallow:/\n",
        "User-agent : GPTBot\nDisallow : /\n",
        "user-AGENT :\tgptbot # no\r\n\r\n\r\ndisallow:/\r\n",
        "  User-agent: GPTBot/1.0\nDisallow: /\n",
        "User-agent: GPTBot\0\nDisallow: /\n",
        "User-agent: AI2Bot\nDisallow: /\n",
        "User-agent: GPTBot\rDisallow: /\r",
        "Useragent: GPTBot\nDisallow: /\n",
        "user agent : GPTBot\nDisallow: /\n",
    ],
)
def test_a_barred_trainer_is_read_as_the_standard_lets_it_be_written(text: str) -> None:
    """RFC 9309 permits blanks, or none, around the colon; a missing one trained on the site."""
    for body in (text.encode(), "\ufeff".encode() + text.encode(), text.encode("utf-16")):
        rules = Robots.parse(body)
        said = rules.statements("https://a.test/diary/1")
        assert [(each.scheme, each.says) for each in said] == [("robots.txt", "reserved")]
        assert rules.permits("https://a.test/diary/1"), "only that crawler is barred"
    barring = re.sub("GPTBot|AI2Bot", "*", text, flags=re.I)
    assert barring != text
    for body in (barring.encode(), barring.encode("utf-16")):
        assert not Robots.parse(body).permits("https://a.test/diary/1")
    for other in ("*bot", "viz browser"):
        odd = f"User-agent: *\nDisallow: /\n\nUser-agent: {other}\nAllow: /\n"
        assert not Robots.parse(odd.encode()).permits("https://a.test/"), "that is not this program"
    spared = Robots.parse(b"User-agent: GPTBotany\nDisallow: /\n")
    assert spared.statements("https://a.test/") == []


@pytest.mark.parametrize(
    "rule",
    [
        '{"location": "/b%6Fok/", "tdm-reservation": 1}',
        '{"location": "book/", "tdm-reservation": 1}',
        '{"location": "/", "tdm-reservation": 1, "tdm-reservation": 0}',
    ],
)
def test_an_odd_rule_of_tdmrep_reserves(rule: str) -> None:
    """An encoded path, a path that fits nothing, a member twice: none of them lets a page go."""
    rules = TdmRules.parse(f"[{rule}]".encode())
    assert [each.says for each in rules.statements("https://a.test/book/1")] == ["reserved"]
    rules = TdmRules.parse(b'[{"location": "/caf%C3%A9", "tdm-reservation": 1}]')
    assert rules.statements("https://a.test/caf%c3%a9") and not rules.statements("https://a.test/")
    rules = TdmRules.parse(b'[{"location": "/price%24", "tdm-reservation": 1}]')
    assert rules.statements("https://a.test/price$1"), "an encoded sign is no end"
    rules = TdmRules.parse(b'[{"location": "/a%2Ab", "tdm-reservation": 0}]')
    assert not rules.statements("https://a.test/a-b"), "an encoded star is no wildcard"


def test_a_preference_counts_for_its_path_however_that_is_written() -> None:
    rules = Robots.parse(b"User-agent: *\nContent-Usage: /b%6Fok/*.html train-ai=n\n")
    said = rules.statements("https://a.test/book/1.html")
    assert [(each.scheme, each.says) for each in said] == [("AI Preferences", "reserved")]
    assert not rules.statements("https://a.test/other/1.html")


def test_hostile_rules_reserve_and_harm_nothing() -> None:
    """An entity bomb, lists of nonsense and odd patterns: nothing is expanded, all is reserved."""
    rules = RslRules()
    bomb = b'<!DOCTYPE r [<!ENTITY a "aaaa">]><rsl><content url="/">&a;</content></rsl>'
    for body in (bomb, b"", b"<rsl/>", b"\xff" * 50, None):
        rules.add("x", body)
    assert {each.says for each in rules.statements("https://a.test/")} == {"reserved"}
    for listed in (b"{}", b"[1]", b'[{"location": 3}]', b"[" * 5_000):
        assert TdmRules.parse(listed).statements("https://a.test/") or listed == b"{}"
    stars, place = b"/" + b"*a" * 8, "https://a.test/" + "a" * 2_000 + "/b"
    for ends in (b"*c", b"*c$", b"$"):
        said = TdmRules.parse(b'[{"location": "%s", "tdm-reservation": 1}]' % (stars + ends))
        assert not said.statements(place)
        assert not Robots.parse(b"Content-Usage: %s train-ai=n\n" % (stars + ends)).statements(
            place
        )
        assert not AiTxt.parse(b"User-agent: *\nDisallow: %s\n" % (stars + ends)).statements(place)
    for end in (b"\n", b"\r"):
        empty = Robots.parse(end * (1 << 20))
        assert not empty.statements(place) and not empty.licenses()
    pattern = TdmRules.parse(b'[{"location": "/*.html$", "tdm-reservation": 1}]')
    assert pattern.statements("https://a.test/a/b.html")
    assert not pattern.statements("https://a.test/a/b.html?c")
    assert header_statements({"x-robots-tag": "noai, noimageai"})
    assert Robots.parse(b"\xef\xbb\xbf\x00garbage").permits("https://a.test/")


async def test_the_command_keeps_each_pages_address_and_hash(
    server: Server, tmp_path: Path
) -> None:
    """The record names every page; the menu that all pages have is left out, and told."""
    import asyncio

    server.diary()
    out = tmp_path / "site"
    told = await asyncio.to_thread(
        CliRunner().invoke,
        viz,
        ["content", "import", f"{server.url}/diary/", "--out", str(out), "--private-addresses",
         "--max-pages", "2", "--json"],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    record: dict[str, Any] = json.loads((out / "import.json").read_text())
    assert [each["name"] for each in record["sources"]] == [
        f"{server.url}/diary/{number}" for number in (1, 2)
    ]
    assert all(len(each["sha256"]) == 64 for each in record["sources"])
    text = (out / "work.txt").read_text()
    assert "wrote down 14 ships" in text and "# Day 2" in text


def heed_interrupts() -> None:
    """Tests that a shell runs in the background ignore SIGINT, and their children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_import_that_is_stopped_leaves_nothing(
    server: Server, tmp_path: Path, number: signal.Signals
) -> None:
    """The pages of a site are in a folder of their own while they are converted."""
    server.diary(3)
    here, out = tmp_path / "tmp", tmp_path / "work"
    here.mkdir()
    ended = 0
    while ended == 0:  # on a busy machine the import may end before the signal: then again
        shutil.rmtree(out, ignore_errors=True)
        words = ["content", "import", server.url + "/", "--private-addresses", "--out", str(out)]
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "viz", *words),
            env={**os.environ, "TMPDIR": str(here)},
            preexec_fn=heed_interrupts,
        )
        while running.returncode is None and not any(here.glob("viz-site-*/2")):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            running.send_signal(number)
        ended = await running.wait()
    assert ended in (128 + number, 130)
    assert not any(here.iterdir()) and not out.exists()
