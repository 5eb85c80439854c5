"""docs/protocol.md: its examples are what the protocol's own code reads and writes."""

from __future__ import annotations

import ast
import base64
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.integration.api.protocol_tables import (
    ADVICE,
    BUYER,
    SIGNERS,
    error_classes,
    structs,
    tables,
)

from viz.api.problems import problem_body
from viz.chain.deployment import deployment_json, parse_deployment
from viz.domain.eip712 import layout_of
from viz.domain.node_channel import CHECKS
from viz.domain.units import parse_address
from viz.domain.work import parse_work
from viz.errors import TransactionFailed
from viz.protocol import (
    credential,
    custody,
    destruction,
    listing,
    market,
    messages,
    notices,
    owner_actions,
    payment,
    receipt_periods,
    registration,
    wire,
)
from viz.protocol.license_document.reading import license_from_values

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
Read = Callable[[Any], Any]


def test_the_checks_of_a_voucher_stand_in_their_order() -> None:
    """Who writes a node or a buyer from the page knows which of several mistakes is told."""
    table = PAGE.split("The node checks in this order")[1].split("\n\n")[1]
    codes = re.findall(r"\| `([a-z-]+)` \|$", table, re.MULTILINE)
    of_each = {
        "check_domain": "wrong-domain",
        "check_voucher_lines": "invalid-request",
        "check_signer": "invalid-signature",
        "check_open": "channel-unknown",
        "check_base": "stale-voucher",
        "check_not_below_best": "line-below-best",
        "check_head": "stale-voucher",
        "check_deposit": "deposit-exceeded",
    }
    names = [check.__name__ for check in CHECKS]
    assert set(names) == set(of_each), "give each check its code here, and its row on the page"
    first = [of_each[name] for name in names]
    of_accept_voucher = [
        "unknown-adapter", "invalid-request", "channel-closing", "payment-required",
    ]  # fmt: skip
    assert codes == first + of_accept_voucher


WHITE: Final = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


def _chunks_as_the_page_says(raw: bytes) -> list[bytes]:
    text = raw.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found = []
    for piece in re.split(r"\n[ \t]*\n", unicodedata.normalize("NFC", text)):
        rest = piece.strip(WHITE)
        while len(rest) > 1_200:
            at = next((i for i in range(1_199, 0, -1) if rest[i] == " "), 1_200)
            found.append(rest[:at].rstrip(WHITE))
            rest = rest[at:].lstrip(WHITE)
        found += [rest] if rest else []
    return [each.encode() for each in found]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffone\r\n\r\ntwo\rthree\n \t\n\nfour",
        "\xa0\u3000a  b\u2003\n\n\x1f\n\nc",
        "e\u0301 " * 700,
        "x" * 3_000,
        "a " + "y" * 1_300 + "  z" * 500,
        "w" * 1_199 + " v",
        "w" * 1_200 + " v",
    ],
)
def test_a_text_is_cut_as_the_page_says(text: str) -> None:
    """Protects who registers a work by a program of their own: another cut is another root."""
    raw = text.encode()
    assert [each.data for each in parse_work("text", raw).chunks] == _chunks_as_the_page_says(raw)


def again(kind: Any) -> Read:
    """Return what reads a message and writes it again."""
    return lambda value: kind.from_json(value).to_json()


def _challenge(value: Any) -> Any:
    text = wire.to_base64url(value)
    header = f'Payment id="i", realm="r", method="viz", intent="session", request="{text}"'
    written = payment.Challenge.from_header(header).to_header()
    return wire.from_base64url(written.split('request="')[1].rstrip('"'))


def _credential(value: Any) -> Any:
    read = credential.credential_from_header(f"Payment {wire.to_base64url(value)}")
    challenge_id = value["challenge"]["id"]
    return wire.from_base64url(
        credential.credential_to_header(read, challenge_id).removeprefix("Payment ")
    )


def _receipt(value: Any) -> Any:
    return payment.receipt_to_json(payment.receipt_from_json(value))


def _receipts(value: Any) -> Any:
    return {"receipts": [payment.receipt_to_json(r) for r in payment.receipts_from_json(value)]}


def _session(value: Any) -> Any:
    return messages.session_challenge_to_json(messages.session_challenge_from_json(value))


def _signer(value: Any) -> Any:
    return {"signer": parse_address(value["signer"])}


def _account(value: Any) -> Any:
    return custody.account_to_json(parse_address(value["account"]))


def _deployment(value: Any) -> Any:
    return deployment_json(parse_deployment(value, "the page"))


def _license(value: Any) -> Any:
    return license_from_values(value).to_json()


def _period(value: Any) -> Any:
    read = receipt_periods.receipts_of_blob(wire.canonical_json(value))
    return json.loads(receipt_periods.period_blob(read))


def _model(value: Any) -> Any:
    (info,) = (json.loads(said) for route, _, _, said in exchanges() if route.endswith("/node"))
    return {**value, "viz": next(each for each in info["adapters"] if each == value["viz"])}


# What travels on a route: the request's body, and the body of an answer below 400.
BODIES: Final[dict[str, tuple[Read | None, Read | None]]] = {
    "GET /viz/v1/deployment": (None, _deployment),
    "GET /viz/v1/node": (None, again(messages.NodeInfo)),
    "POST /viz/v1/channels": (None, again(messages.ChannelView)),
    "POST /viz/v1/vouchers": (None, again(messages.ChannelView)),
    "POST /viz/v1/channels/close": (None, again(messages.CloseAnswer)),
    "POST /viz/v1/sessions/challenge": (_signer, _session),
    "POST /viz/v1/sessions": (again(messages.SessionProof), again(messages.AccessToken)),
    "GET /viz/v1/channels/receipts": (None, _receipts),
    "GET /viz/v1/contents/context": (None, again(registration.RegistrationContext)),
    "POST /viz/v1/contents": (
        again(registration.SignedRegistration),
        again(registration.RegistrationAnswer),
    ),
    "GET /v1/models/viz-adapter-7": (None, _model),
    "GET /license/2": (None, _license),
    **{
        f"POST {path}": (again(kind), again(owner_actions.ActionAnswer))
        for path, kind in (
            (owner_actions.TERMS_PATH, owner_actions.SignedTerms),
            (owner_actions.APPROVALS_PATH, owner_actions.SignedApproval),
            (owner_actions.WITHDRAWALS_PATH, owner_actions.SignedWithdrawal),
        )
    },
    "POST /viz/v1/listings": (again(listing.SignedListing), again(listing.ListingAnswer)),
    "GET /viz/v1/listings": (
        None,
        lambda value: listing.listings_to_json(*listing.listings_from_json(value)),
    ),
    "GET /viz/v1/listings/3": (None, again(listing.SignedListing)),
    "POST /viz/v1/keys/challenge": (_account, again(custody.KeyChallenge)),
    "POST /viz/v1/keys": (again(custody.SignedKeyRequest), again(custody.WrappedKey)),
    "POST /viz/v1/custody/end": (
        again(custody.SignedEndCustody),
        again(destruction.DestructionCertificate),
    ),
    "POST /viz/v1/notices": (again(notices.SignedNotice), again(notices.NoticeView)),
    "GET /viz/v1/notices": (None, again(notices.NoticePage)),
    "GET /viz/v1/keys/works/3": (None, again(custody.HandedKeys)),
    f"GET {market.MARKET_PATH}": (None, again(market.MarketPage)),
    f"GET {receipt_periods.PERIODS_PATH}": (None, again(receipt_periods.PeriodsPage)),
    "GET /ipfs": (None, _period),
    "GET /viz/v1/accounts": (None, again(owner_actions.AccountView)),
    "GET /viz/v1/accounts/contents": (None, again(owner_actions.OwnedWorks)),
}
# OpenAI's own bodies, and what a node reports of the chain in no model of ours.
OTHERS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/viz/v1/contents/1",
    "/viz/v1/adapters",
    "/viz/v1/adapters/7",
    "/license/2/rate-card.json",
    "/.well-known/tdmrep.json",
)


def blocks(language: str) -> list[str]:
    """Return the page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)\n```$", PAGE, re.DOTALL | re.MULTILINE)


def exchanges() -> Iterator[tuple[str, str, int, str]]:
    """Yield route, request body, status and answer body of every exchange of the page."""
    http = [block for block in blocks("http") if not block.startswith("data: ")]
    for asked, said in zip(http[::2], http[1::2], strict=True):
        method, target, _ = asked.split("\n", 1)[0].split(" ")
        path = re.sub(r"/(0x[0-9a-fA-F]{40}|baf[a-z2-7]{56})", "", target.partition("?")[0])
        status = int(said.split(" ", 2)[1])
        yield f"{method} {path}", asked.partition("\n\n")[2], status, said.partition("\n\n")[2]


def test_every_exchange_is_read_and_written_alike() -> None:
    """A body of the page that the models do not know, or spell otherwise, would mislead."""
    seen: set[str] = set()
    for route, asked, status, said in exchanges():
        seen.add(route)
        if route.partition(" ")[2] in OTHERS:
            assert status >= 400 or "data: " in said or json.loads(said)
            continue
        read_request, read_answer = BODIES[route]
        for text, read in ((asked, read_request), (said if status < 400 else "", read_answer)):
            assert not text or read is not None, route
            if text and read is not None:
                assert read(json.loads(text)) == json.loads(text), route
    assert set(BODIES) <= seen


def test_every_problem_has_a_code_of_the_tree() -> None:
    """The refusals of the exchange are ones that the table lists."""
    found = [json.loads(said) for _, _, status, said in exchanges() if status >= 400]
    assert len(found) >= 4
    for problem in found:
        assert problem["code"] in ADVICE and problem["error"]["code"] == problem["code"]
        assert problem["type"] == f"urn:viz:problem:{problem['code']}"


@pytest.mark.parametrize("text", blocks("json"))
def test_every_decoded_message_is_read_and_written_alike(text: str) -> None:
    """Credentials, challenges and receipts as the page spells them are those of the code."""
    value = json.loads(text)
    kinds = {"payload": _credential, "suggestedDeposit": _challenge, "requestSalt": _receipt}
    (read,) = (kinds[name] for name in kinds if name in value)
    assert read(value) == value


def test_every_header_holds_what_is_decoded_below_it() -> None:
    """The base64url of the page and the JSON beside it are the same message."""
    encoded = re.findall(
        r'^(?:Authorization: Payment |Payment-(?:Voucher|Receipt): |.*request=")([\w-]{40,})"?$',
        PAGE,
        re.MULTILINE,
    )
    found = [json.loads(base64.urlsafe_b64decode(text + "==")) for text in encoded]
    assert found == [json.loads(text) for text in blocks("json")] and len(found) >= 10


def test_every_event_of_the_stream_is_read_and_written_alike() -> None:
    """The need and the receipt of the stream are the models' own."""
    needs = re.findall(r"^event: payment-need-voucher\ndata: (.*)$", PAGE, re.MULTILINE)
    receipts = re.findall(r"^event: payment-receipt\ndata: (.*)$", PAGE, re.MULTILINE)
    assert needs and receipts
    for text in needs:
        assert payment.NeedVoucher.from_json(json.loads(text)).to_json() == json.loads(text)
    for text in receipts:
        assert _receipt(json.loads(text)) == json.loads(text)


def test_every_error_and_every_structure_is_explained() -> None:
    """A new code or structure must come with what a client does, or who signs it."""
    codes = [kind.code for kind in error_classes()]
    assert set(codes) == set(ADVICE) and len(codes) == len(set(codes))
    assert {layout_of(kind).name for kind in structs()} == set(SIGNERS)


def test_no_error_has_a_code_outside_the_tree_of_errors() -> None:
    """The page's tables are made of ``viz.errors``, and clients know no other codes."""
    own = ROOT / "node" / "viz"
    found = [
        f"{path.relative_to(own)}: {kind.name}"
        for path in own.rglob("*.py")
        if path != own / "errors.py"
        for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(kind, ast.ClassDef)
        for line in kind.body
        if isinstance(line, ast.Assign)
        for name in ast.walk(line.targets[0])
        if isinstance(name, ast.Name) and name.id == "code"
    ]
    assert not found, f"move them to viz/errors.py: {found}"


# What a node makes of these members: a header, not a member of the body.
IN_HEADERS: Final = frozenset({"challenge", "quote", "need"})
# What only a buyer or a creator raises on its own machine never travels.
CLIENTS: Final = ("audit", "buyer", "cli", "client", "creator")


def _members(call: ast.Call, variables: ast.AST) -> Iterator[str]:
    """Yield the names of a call's keywords, also of those that it takes from a variable."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg
        elif isinstance(keyword.value, ast.Name):
            for node in ast.walk(variables):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                    names = [each.id for each in node.targets if isinstance(each, ast.Name)]
                    if keyword.value.id in names:
                        yield from (str(ast.literal_eval(key)) for key in node.value.keys if key)


def test_the_page_names_every_member_that_a_refusal_may_have() -> None:
    """Who writes a client from the page must know what comes beside an error's code."""
    codes = {kind.__name__: kind.code for kind in error_classes()}
    told = {name for name, code in codes.items() if ADVICE[code][0] == BUYER}
    own = ROOT / "node" / "viz"
    raised: set[str] = set()
    for path in own.rglob("*.py"):
        if path.relative_to(own).parts[0] in CLIENTS:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in told:
                raised.update(_members(node, tree))
    table = PAGE.split("Further members")[1].split("\n\n")[1]
    first = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {name for cell in first for name in re.findall(r"`(\w+)`", cell)}
    assert len(raised) > 20 and named == raised - IN_HEADERS


def test_no_member_of_a_refusal_hides_one_of_every_problem() -> None:
    """A member of the same name would be overwritten, and its reader would get another thing."""
    body = problem_body(TransactionFailed("said"), "an id")
    page = PAGE.split("Further members")[1].split("\n\n")[1]
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in page.splitlines())))
    assert named & (set(body) | set(body["error"])) == {"param"}


def test_who_meets_an_error_is_whoever_may_ask_the_route() -> None:
    """Section 3 must not name an error on a public route that section 13 gives to nobody there."""
    rows = re.findall(
        r"^\| (?:GET|POST|DELETE) \| `(/[^`]*)` \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE
    )
    named = [
        (route, code)
        for route, cell in rows
        if not route.startswith("/operator/")
        for code in re.findall(r"`([a-z-]+)`", cell)
    ]
    assert len(named) >= 50
    assert [each for each in named if ADVICE[each[1]][0] != BUYER] == []


@pytest.mark.parametrize("name", sorted(tables()))
def test_the_tables_are_current(name: str) -> None:
    """What follows from the code stands in the page as the code has it now."""
    assert tables()[name] in PAGE, "python -m tests.integration.api.protocol_examples --write"


def test_the_links_of_the_page_lead_somewhere() -> None:
    """A heading or file that moved must not leave a dead link."""
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / "docs" / path).exists(), target
        assert not anchor or path or anchor in anchors, target
