"""A creator hands a sealed work over; whoever the chain permits gets its key, and nobody else."""

from __future__ import annotations

import asyncio
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.integration.chain.testnet import Testnet, terms
from tests.integration.network.nodes import RealNode, real_node
from tests.integration.network.works import SECRET, CreatorsWork, license_to, registered_work

from viz.chain.keys import development_account
from viz.creator import sealed as creators
from viz.domain.eip712 import content_registry_domain, public_address, sign
from viz.domain.typed_data import Custody, KeyRequest
from viz.domain.units import Cid, ContentId, Hash32
from viz.errors import (
    CustodyFull,
    InvalidRequest,
    InvalidSignature,
    InvalidWork,
    LicenseError,
    NoLiveGrant,
    StorageUnavailable,
    VizError,
)
from viz.protocol.custody import (
    CUSTODY_HEADER,
    CUSTODY_PATH,
    HANDED_PATH,
    KEY_CHALLENGE_PATH,
    KEYS_PATH,
    HandOver,
    KeyChallenge,
    SignedKeyRequest,
)
from viz.services.custody.custodian import CustodyPolicy
from viz.storage.base import root_of_source
from viz.storage.sealing import new_identity, recipient_of, unseal_bytes, unwrap, wrap

CUSTODIAN, TRAINER = 5, 6
TRAINER_KEY = bytes(development_account(TRAINER).key)


@pytest_asyncio.fixture
async def node(net: Testnet, tmp_path: Path) -> AsyncIterator[RealNode]:
    async with real_node(net, tmp_path / "a", CUSTODIAN) as running:
        yield running


@pytest_asyncio.fixture
async def work(net: Testnet, tmp_path: Path) -> CreatorsWork:
    return await registered_work(net, tmp_path / "creator")


def domain_of(net: Testnet) -> Any:
    return content_registry_domain(net.deployment.chain_id, net.deployment.content_registry)


async def key_request(
    node: RealNode, net: Testnet, item: int, key: bytes, identity: str, **changes: Any
) -> SignedKeyRequest:
    """Return a signed request for the key of a work; ``changes`` replace members."""
    account = public_address(key)
    _, body = await node.call("POST", KEY_CHALLENGE_PATH, body={"account": account})
    asked = KeyChallenge.from_json(body)
    request = KeyRequest(
        account,
        asked.custodian,
        asked.origin,
        1,
        item,
        recipient_of(identity),
        asked.challenge,
        asked.expiry_s,
    )
    request = replace(request, **changes)
    return SignedKeyRequest(request, sign(key, domain_of(net).digest(request)))


async def test_a_licensed_trainer_gets_the_key_and_it_is_logged(
    node: RealNode, net: Testnet, work: CreatorsWork, tmp_path: Path
) -> None:
    """The key opens the blob of the gateway, and the owner sees who has it, and of which block."""
    await work.publish(node)
    await license_to(net, TRAINER, work)
    key = TRAINER_KEY
    identity = new_identity()
    asked = await key_request(node, net, work.content_id, key, identity)
    status, given = await node.call("POST", KEYS_PATH, body=asked.to_json())
    assert status == 200, given
    opened = unwrap(bytes.fromhex(given["wrappedKey"][2:]), identity)
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{node.url}/ipfs/{given['cid']}") as response,
    ):
        (tmp_path / "blob").write_bytes(await response.read())
    plain = unseal_bytes(tmp_path / "blob", opened, max_bytes=10**6)
    assert plain.endswith(work.path.read_bytes()) and SECRET.encode() in plain
    path = HANDED_PATH.format(kind="works", item_id=int(work.content_id))
    _, log = await node.call("GET", path)
    (handed,) = log["handed"]
    assert handed["requester"] == public_address(key) and handed["cid"] == given["cid"]
    assert handed["block"] == (await net.chain.head()).number


async def test_a_custodian_keeps_nothing_plain(
    node: RealNode, net: Testnet, work: CreatorsWork
) -> None:
    """The disk of a custodian holds sealed bytes, and a key that only its user may read."""
    await work.publish(node)
    files = node.files()
    assert not [name for name, data in files.items() if SECRET.encode() in data]
    assert not [name for name in files if name.endswith(".part")]
    (kept,) = (node.folder / "keys").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert work.sealed.key in kept.read_text()
    assert not [
        name for name in files if name.startswith("ledger") and b"AGE-SECRET" in files[name]
    ]


async def test_who_has_no_grant_gets_no_key(
    node: RealNode, net: Testnet, work: CreatorsWork
) -> None:
    """Neither a stranger nor a former trainer, nor a grant that does not permit training."""
    await work.publish(node)
    key = TRAINER_KEY
    asked = await key_request(node, net, work.content_id, key, new_identity())
    status, problem = await node.call("POST", KEYS_PATH, body=asked.to_json())
    assert (status, problem["code"]) == (403, NoLiveGrant.code) and "no grant" in problem["detail"]
    await license_to(net, TRAINER, work)
    await net.anvil.advance_time(work.record.terms.grant_duration_s + 1)
    asked = await key_request(node, net, work.content_id, key, new_identity())
    status, problem = await node.call("POST", KEYS_PATH, body=asked.to_json())
    assert (status, problem["code"]) == (403, NoLiveGrant.code) and "no longer" in problem["detail"]
    await net.done(net.sender(work.account), "ContentRegistry", "withdraw", work.content_id)
    asked = await key_request(node, net, work.content_id, key, new_identity())
    status, problem = await node.call("POST", KEYS_PATH, body=asked.to_json())
    assert (status, problem["code"]) == (403, NoLiveGrant.code)
    # Nobody can acquire a grant any more: the refusal does not ask for that.
    assert "was withdrawn" in problem["detail"] and "acquire" not in problem["detail"]


async def test_a_grant_without_training_gives_no_key(
    node: RealNode, net: Testnet, tmp_path: Path
) -> None:
    """A license to serve or to quote is not one to read the whole work."""
    work = await registered_work(net, tmp_path / "other", offered=terms(uses=4))
    await work.publish(node)
    await license_to(net, TRAINER, work)
    key = TRAINER_KEY
    asked = await key_request(node, net, work.content_id, key, new_identity())
    status, problem = await node.call("POST", KEYS_PATH, body=asked.to_json())
    assert (status, problem["code"]) == (403, NoLiveGrant.code)
    assert "does not permit training" in problem["detail"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"origin": "http://elsewhere.test"}, "wrong-domain"),
        ({"custodian": public_address(b"\x77" * 32)}, "wrong-domain"),
        ({"challenge": Hash32(secrets.token_bytes(32))}, "access-token-invalid"),
        ({"expiry_s": 2**40}, "access-token-invalid"),
        ({"requester": public_address(b"\x77" * 32)}, "access-token-invalid"),
        ({"kind": 3}, "invalid-request"),
        ({"item_id": 10**30}, "license"),
        ({"item_id": 77}, LicenseError.code),
        ({"age_recipient": "age1nobody"}, "invalid-request"),
        ({"age_recipient": ""}, "invalid-request"),
    ],
)
async def test_a_request_for_something_else_is_refused(
    node: RealNode, net: Testnet, work: CreatorsWork, changes: dict[str, Any], code: str
) -> None:
    """What was signed for another node, origin, moment, account or thing gives no key here."""
    await work.publish(node)
    await license_to(net, TRAINER, work)
    key = TRAINER_KEY
    asked = await key_request(node, net, work.content_id, key, new_identity(), **changes)
    status, problem = await node.call("POST", KEYS_PATH, body=asked.to_json())
    assert (status >= 400, problem["code"]) == (True, code)
    assert "wrappedKey" not in problem


async def test_a_request_is_answered_once(node: RealNode, net: Testnet, work: CreatorsWork) -> None:
    """Whoever copies a request, or forges its signature, gets nothing by it."""
    await work.publish(node)
    await license_to(net, TRAINER, work)
    key = TRAINER_KEY
    asked = await key_request(node, net, work.content_id, key, new_identity())
    forged = replace(asked, signature=sign(b"\x77" * 32, domain_of(net).digest(asked.request)))
    status, problem = await node.call("POST", KEYS_PATH, body=forged.to_json())
    assert (status, problem["code"]) == (401, "invalid-signature")
    both = await asyncio.gather(
        *(node.call("POST", KEYS_PATH, body=asked.to_json()) for _ in range(2))
    )
    assert sorted(status for status, _ in both) == [200, 401]
    _, log = await node.call("GET", HANDED_PATH.format(kind="works", item_id=1))
    assert len(log["handed"]) == 1


async def test_keys_are_given_a_few_times_an_hour(
    node: RealNode, net: Testnet, work: CreatorsWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A licensed trainer does not fill the custodian's log."""
    monkeypatch.setattr("viz.services.custody.custodian.KEYS_AN_HOUR", 2)
    await work.publish(node)
    await license_to(net, TRAINER, work)
    key, identity = TRAINER_KEY, new_identity()
    statuses = []
    for _ in range(3):
        asked = await key_request(node, net, work.content_id, key, identity)
        status, _ = await node.call("POST", KEYS_PATH, body=asked.to_json())
        statuses.append(status)
    assert statuses == [200, 200, 429]


async def hand_over_with(
    node: RealNode,
    work: CreatorsWork,
    body: bytes,
    *,
    key: bytes | None = None,
    sealed_key: str | None = None,
    age_key: str | None = None,
    sent: AsyncIterator[bytes] | None = None,
    **changes: Any,
) -> tuple[int, Any]:
    """Send a hand-over whose parts a test chose; ``sent`` goes out in place of ``body``."""
    owner = public_address(work.key)
    _, answer = await node.call("POST", KEY_CHALLENGE_PATH, body={"account": owner})
    asked = KeyChallenge.from_json(answer)
    said = Custody(
        work.content_id,
        asked.custodian,
        asked.origin,
        work.sealed.cid,
        len(body),
        asked.challenge,
        asked.expiry_s,
    )
    said = replace(said, **changes)
    signature = sign(key or work.key, domain_of(work.net).digest(said))
    wrapped = wrap(sealed_key or work.sealed.key, age_key or node.age_key)
    headers = {CUSTODY_HEADER: HandOver(said, signature, wrapped).to_header()}
    async with (
        aiohttp.ClientSession() as http,
        http.post(node.url + CUSTODY_PATH, data=sent or body, headers=headers) as response,
    ):
        return response.status, await response.json()


Change = Callable[[CreatorsWork], dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda work: {"key": b"\x77" * 32}, InvalidSignature.code),
        (lambda work: {"content_id": ContentId(77)}, LicenseError.code),
        (lambda work: {"origin": "http://elsewhere.test"}, "wrong-domain"),
        (lambda work: {"challenge": Hash32(bytes(32))}, "access-token-invalid"),
        (lambda work: {"sealed_key": new_identity()}, InvalidWork.code),
        (lambda work: {"age_key": recipient_of(new_identity())}, InvalidWork.code),
        (lambda work: {"body": work.sealed.path.read_bytes()[:-1] + b"x"}, InvalidRequest.code),
        (lambda work: {"size_bytes": 2 * 1024**3}, InvalidRequest.code),
        (lambda work: {"cid": "../../etc"}, InvalidRequest.code),
    ],
)
async def test_what_the_owner_did_not_sign_over_is_not_kept(
    node: RealNode, work: CreatorsWork, change: Change, code: str
) -> None:
    """Another signer, node, key or blob: refused, and nothing of it stays on the disk."""
    before = set(node.files())
    changes = change(work)
    body = changes.pop("body", work.sealed.path.read_bytes())
    status, problem = await hand_over_with(node, work, body, **changes)
    assert status >= 400 and problem["code"] == code, problem
    assert {name for name in node.files() if "ledger" not in name} <= before


@pytest.mark.parametrize(
    "changes", [{"key": b"\x77" * 32}, {"size_bytes": 2 * 1024**3}, {"origin": "http://b.test"}]
)
async def test_a_refused_hand_over_is_not_read(
    node: RealNode, work: CreatorsWork, changes: dict[str, Any]
) -> None:
    """The answer comes while the body, of which one byte was sent, is still under way."""

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    body = work.sealed.path.read_bytes()
    async with asyncio.timeout(10):
        status, _ = await hand_over_with(node, work, body, sent=endless(), **changes)
    assert 400 <= status < 500


async def test_a_refused_hand_over_says_whose_fault_it_is(
    node: RealNode, work: CreatorsWork
) -> None:
    """What only the sender can mend is named to it: to "try again" would not mend it."""
    body = work.sealed.path.read_bytes()
    cut = work.sealed.path.with_name("cut.age")
    cut.write_bytes(body[:-40])
    _, problem = await hand_over_with(
        node, work, body[:-40], cid=root_of_source(cut), size_bytes=len(body) - 40
    )
    assert "cut off" in problem["detail"] and "Seal the work again" in problem["detail"]
    _, problem = await hand_over_with(node, work, body, age_key=recipient_of(new_identity()))
    assert "ageKey" in problem["detail"], problem
    _, problem = await hand_over_with(node, work, body, challenge=Hash32(bytes(32)))
    assert f"belongs to {public_address(work.key)}" in problem["detail"], problem
    async with (
        aiohttp.ClientSession() as http,
        http.post(node.url + CUSTODY_PATH, data=body) as response,
    ):
        problem = await response.json()
    assert (response.status, problem["code"]) == (400, InvalidRequest.code)
    assert CUSTODY_HEADER in problem["detail"], problem


async def test_another_work_is_not_kept_under_an_owners_id(
    node: RealNode, net: Testnet, work: CreatorsWork, tmp_path: Path
) -> None:
    """A custodian opens what it is given, in memory: only the registered work is kept."""
    other = await registered_work(net, tmp_path / "second", text="Quite another text.\n\n" * 9)
    body = other.sealed.path.read_bytes()
    status, problem = await hand_over_with(
        node, work, body, sealed_key=other.sealed.key, cid=other.sealed.cid
    )
    assert (status, problem["code"]) == (409, "commitment-mismatch")
    assert not [name for name in node.files() if "keys/" in name or "blobs/blocks" in name]


async def test_quotas_bound_what_is_kept(net: Testnet, tmp_path: Path) -> None:
    """An owner's works, all works, and a node that takes none: each has its bound."""
    first = await registered_work(net, tmp_path / "one")
    second = await registered_work(net, tmp_path / "two")
    third = await registered_work(net, tmp_path / "three", account=2)
    size = first.sealed.size_bytes
    policy = CustodyPolicy(int(1.5 * size), int(1.2 * size))
    async with real_node(net, tmp_path / "a", CUSTODIAN, custody=policy) as node:
        await first.hand_over(node)
        await first.hand_over(node)  # again: the same work in place of itself
        with pytest.raises(CustodyFull, match="of one owner"):
            await second.hand_over(node)
        with pytest.raises(CustodyFull, match="its quota is"):
            await third.hand_over(node)
        assert len(list((node.folder / "keys").iterdir())) == 1
    async with real_node(net, tmp_path / "b", TRAINER, custody=CustodyPolicy(0, 0)) as none:
        with pytest.raises(CustodyFull, match="takes no works"):
            await first.hand_over(none)


async def test_a_new_hand_over_replaces_the_old_key(node: RealNode, work: CreatorsWork) -> None:
    """Sealed anew, a work has a new key, and the old one is destroyed."""
    await work.hand_over(node)
    old = work.sealed
    work.sealed.path.unlink()
    work.sealed = creators.seal_work(work.path, work.record)
    assert work.sealed.cid != old.cid
    await work.hand_over(node)
    (kept,) = (node.folder / "keys").iterdir()
    assert kept.name == f"{work.sealed.cid}.key" and old.key not in kept.read_text()
    # Else an owner would fill the disk by sealing again and again.
    assert not await node.blobs.has(old.cid)
    blocks = list((node.folder / "blobs" / "blocks").rglob("baf*"))
    assert [path.name for path in blocks] == [work.sealed.cid]


async def test_an_old_blob_that_cannot_be_erased_fails_no_hand_over(
    node: RealNode, work: CreatorsWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new blob is recorded by then, and the old one is unreadable without its key."""

    async def refuses(cid: Cid) -> bool:
        raise StorageUnavailable(f"{cid} cannot be deleted: read-only file system")

    await work.hand_over(node)
    old = work.sealed
    work.sealed.path.unlink()
    work.sealed = creators.seal_work(work.path, work.record)
    monkeypatch.setattr(node.blobs, "erase", refuses)
    await work.hand_over(node)
    (kept,) = (node.folder / "keys").iterdir()
    assert kept.name == f"{work.sealed.cid}.key" and await node.blobs.has(old.cid)


async def test_a_creator_signs_for_no_other_node(
    node: RealNode, net: Testnet, work: CreatorsWork
) -> None:
    """A node in the middle, or a name that the node does not know itself by, gets no signature."""
    custodian = await creators.custodian_at(node.url, net.deployment)
    for wrong in (
        replace(custodian, node=public_address(b"\x77" * 32)),
        replace(custodian, url=custodian.url.replace("127.0.0.1", "localhost")),
    ):
        with pytest.raises(VizError, match="nothing was signed"):
            await creators.hand_over(work.sealed, work.content_id, wrong, net.deployment, work.key)


async def test_a_second_try_sends_the_same_blob(work: CreatorsWork) -> None:
    """Custodians that were reached at different times hold one blob under one CID."""
    again = creators.seal_work(work.path, work.record)
    assert again == work.sealed
    for name in (work.sealed.path.name, work.sealed.path.name + ".key"):
        assert stat.S_IMODE((work.path.parent / name).stat().st_mode) == 0o600
    assert SECRET.encode() not in work.sealed.path.read_bytes()
