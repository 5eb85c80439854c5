"""An owner ends a custody: key and sealed work are destroyed and certified at that node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode, real_node
from tests.integration.network.test_custody import TRAINER, TRAINER_KEY, domain_of, key_request
from tests.integration.network.works import CreatorsWork, license_to, registered_work
from typer.testing import CliRunner

from viz.chain.deployment import save_deployment
from viz.chain.keys import development_account
from viz.chain.wallet_signatures import is_wallet_signature
from viz.cli.main import app
from viz.creator import sealed as creators
from viz.domain.eip712 import public_address, settlement_domain, sign
from viz.domain.typed_data import Custody, EndCustody
from viz.domain.units import Address, parse_address
from viz.errors import KeyUnknown
from viz.protocol.custody import (
    CUSTODY_HEADER,
    CUSTODY_PATH,
    END_CUSTODY_PATH,
    KEY_CHALLENGE_PATH,
    KEYS_PATH,
    HandOver,
    KeyChallenge,
    SignedEndCustody,
)
from viz.protocol.destruction import (
    CERTIFICATES_PATH,
    Certificates,
    DestructionCertificate,
    certify,
)
from viz.protocol.listing import LISTINGS_PATH, SignedListing
from viz.storage.sealing import new_identity, wrap

CUSTODIAN = 5
# Answers the magic value for digests that its storage has approved, whatever else it is asked:
# calldataload(4), sload, times 0x1626ba7e << 224.
WALLET = Address("0x000000000000000000000000000000000000A11E")
WALLET_CODE = "0x600435546316" + "26ba7e60e01b0260005260206000f3"
# Answers the magic value whatever it is asked.
YES = "0x631626ba7e60e01b60005260206000f3"
# Loops until its gas is used up; answers a megabyte; reverts.
LOOPS, LONG, REVERTS = "0x5b600056", "0x620fffff6000f3", "0x60006000fd"


@pytest_asyncio.fixture
async def node(net: Testnet, tmp_path: Path) -> AsyncIterator[RealNode]:
    async with real_node(net, tmp_path / "a", CUSTODIAN) as running:
        yield running


@pytest_asyncio.fixture
async def work(net: Testnet, tmp_path: Path) -> CreatorsWork:
    return await registered_work(net, tmp_path / "creator")


async def challenge(node: RealNode, account: str) -> KeyChallenge:
    _, body = await node.call("POST", KEY_CHALLENGE_PATH, body={"account": account})
    return KeyChallenge.from_json(body)


async def ended(
    node: RealNode, work: CreatorsWork, key: bytes = b"", **changes: Any
) -> SignedEndCustody:
    """Return the owner's signed end of the custody; ``changes`` replace members."""
    asked = await challenge(node, work.record.creator)
    members = {
        "content_id": work.content_id,
        "custodian": asked.custodian,
        "origin": asked.origin,
        "challenge": asked.challenge,
        "expiry_s": asked.expiry_s,
    }
    said = EndCustody(**{**members, **changes})
    return SignedEndCustody(said, sign(key or work.key, domain_of(work.net).digest(said)))


async def certificates_are_the_nodes(
    node: RealNode, net: Testnet, work: CreatorsWork, true: DestructionCertificate
) -> None:
    """Ask by the command: it tells the node's own certificate from one by another key."""
    trusted = node.folder / "trusted"
    save_deployment(trusted / "deployment.json", net.deployment)
    verb = ["content", "certificates", str(int(work.content_id)), "--node", node.url]
    verb += ["--data-dir", str(trusted), "--rpc", net.anvil.url]
    runner = CliRunner()
    shown = await asyncio.to_thread(runner.invoke, app, verb)
    assert shown.exit_code == 0 and "this node" not in shown.stdout, shown.output
    domain = settlement_domain(net.deployment.chain_id, net.deployment.settlement)
    other = public_address(TRAINER_KEY)
    false = certify(
        TRAINER_KEY,
        domain,
        other,
        work.content_id,
        withdrawn_at_s=0,
        due_at_s=true.certificate.due_at_s,
        time_s=true.certificate.time_s,
        destroyed=true.destroyed,
        left=(),
    )
    (kept,) = node.folder.rglob(f"{int(work.content_id)}-1.json")
    second = kept.with_name(f"{int(work.content_id)}-2.json")
    second.write_text(json.dumps(false.to_json()), encoding="utf-8")
    shown = await asyncio.to_thread(runner.invoke, app, verb)
    second.unlink()
    assert shown.exit_code == 12 and "another account's statement" in shown.stderr, shown.output
    assert f"{other}, which is NOT this node ({true.certificate.node})" in shown.stdout


async def test_an_owner_has_key_and_work_destroyed(
    node: RealNode, net: Testnet, work: CreatorsWork
) -> None:
    """Neither key nor blob is left, the quota is free, a licensee gets no key, and the node signed
    what it did; a repetition gets the same certificate, and the work may come again."""
    await work.publish(node)
    await license_to(net, TRAINER, work)
    custodian = await creators.custodian_at(node.url, net.deployment)
    made = await creators.end_custody(work.content_id, custodian, net.deployment, work.key)
    assert made.certificate.withdrawn_at_s == 0
    gone = {item.kind: item.name for item in made.destroyed}
    assert gone["sealed work"] == gone["key of the sealed work"] == work.sealed.cid
    assert set(gone) == {"sealed work", "key of the sealed work", "place in custody"}
    assert made.left == ()
    assert list((node.folder / "keys").iterdir()) == []
    assert not [name for name, data in node.files().items() if work.sealed.key.encode() in data]
    assert not await node.blobs.has(work.sealed.cid)
    assert await node.store.held_bytes(parse_address(work.record.creator)) == (0, 0)
    asked = await key_request(node, net, work.content_id, TRAINER_KEY, new_identity())
    status, problem = await node.call("POST", KEYS_PATH, body=asked.to_json())
    assert (status, problem["code"]) == (404, KeyUnknown.code)
    again = await creators.end_custody(work.content_id, custodian, net.deployment, work.key)
    assert again == made
    _, listed = await node.call("GET", CERTIFICATES_PATH.format(content_id=int(work.content_id)))
    (public,) = Certificates.from_json(listed).certificates
    public.verify(settlement_domain(net.deployment.chain_id, net.deployment.settlement))
    await certificates_are_the_nodes(node, net, work, public)
    await work.hand_over(node)
    asked = await key_request(node, net, work.content_id, TRAINER_KEY, new_identity())
    assert (await node.call("POST", KEYS_PATH, body=asked.to_json()))[0] == 200
    # An end in the chain's same second would be the same statement, which is answered once.
    await net.anvil.advance_time(1)
    await creators.end_custody(work.content_id, custodian, net.deployment, work.key)
    assert len(await node.parts.destruction.certificates(work.content_id)) == 2
    assert await node.parts.custodian.key_of(work.sealed.cid) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"origin": "https://elsewhere.example"}, "wrong-domain"),
        ({"custodian": Address("0x" + "11" * 20)}, "wrong-domain"),
        ({"expiry_s": 2**40}, "access-token-invalid"),
        ({"content_id": 99}, "license"),
        ({"key": bytes(development_account(TRAINER).key)}, "invalid-signature"),
    ],
)
async def test_nobody_else_ends_a_custody(
    node: RealNode, work: CreatorsWork, changes: dict[str, Any], code: str
) -> None:
    """Another's signature, another node's or origin's request, and an old one destroy nothing."""
    await work.publish(node)
    asked = await ended(node, work, **changes)
    _, problem = await node.call("POST", END_CUSTODY_PATH, body=asked.to_json())
    assert problem["code"] == code
    assert await node.parts.custodian.key_of(work.sealed.cid) == work.sealed.key


async def test_a_request_is_good_once_and_needs_a_custody(
    node: RealNode, work: CreatorsWork
) -> None:
    """A copy of the owner's request ends no later custody, and what never was here is said."""
    asked = await ended(node, work)
    status, problem = await node.call("POST", END_CUSTODY_PATH, body=asked.to_json())
    assert (status, problem["code"]) == (404, "key-unknown")
    await work.publish(node)
    status, problem = await node.call("POST", END_CUSTODY_PATH, body=asked.to_json())
    assert (status, problem["code"]) == (401, "access-token-invalid")
    assert await node.parts.custodian.key_of(work.sealed.cid) == work.sealed.key


async def test_a_contract_that_accepts_everything_speaks_for_its_own_works_only(
    node: RealNode, net: Testnet, work: CreatorsWork
) -> None:
    """Its yes ends no custody of another's work, and frees its owner of none."""
    await net.rpc.request("anvil_setCode", [WALLET, YES])
    await work.publish(node)
    asked = await challenge(node, WALLET)
    said = EndCustody(
        work.content_id, asked.custodian, asked.origin, asked.challenge, asked.expiry_s
    )
    for signature in (b"", b"\x01" * 65, b"\x01" * 200):
        request = SignedEndCustody(said, signature).to_json()
        status, _ = await node.call("POST", END_CUSTODY_PATH, body=request)
        assert 400 <= status < 500
    assert await node.parts.custodian.key_of(work.sealed.cid) == work.sealed.key


async def approve(net: Testnet, digest: bytes) -> None:
    """Let the wallet accept a digest, as its owners do on chain."""
    await net.rpc.request(
        "anvil_setStorageAt", [WALLET, "0x" + digest.hex(), "0x" + "1".rjust(64, "0")]
    )


async def test_a_contract_wallet_owns_works_too(
    node: RealNode, net: Testnet, work: CreatorsWork
) -> None:
    """It hands over, lists and ends by ERC-1271, and the former owner's key does none of it."""
    await net.rpc.request("anvil_setCode", [WALLET, WALLET_CODE])
    owner = net.sender(work.account)
    transfer = (owner.address, WALLET, work.content_id)
    await net.done(owner, "ContentRegistry", "transferFrom", *transfer)
    domain, signature = domain_of(net), b"\x01" * 200
    node_info = await creators.custodian_at(node.url, net.deployment)

    asked = await challenge(node, WALLET)
    sealed = work.sealed
    said = Custody(
        work.content_id,
        node.address,
        node.url,
        sealed.cid,
        sealed.size_bytes,
        asked.challenge,
        asked.expiry_s,
    )
    wrapped = wrap(sealed.key, node_info.age_key)

    async def hand_over(given: bytes) -> tuple[int, Any]:
        header = HandOver(said, given, wrapped).to_header()
        return await node.send(CUSTODY_PATH, sealed.path.read_bytes(), {CUSTODY_HEADER: header})

    former = sign(work.key, domain.digest(said))
    for given in (former, signature):  # nothing is approved yet
        status, problem = await hand_over(given)
        assert (status, problem["code"]) == (401, "invalid-signature")
    await approve(net, domain.digest(said))
    assert (await hand_over(signature))[0] == 201

    listing = await work.listing(node)
    unsigned = SignedListing(listing.listing, listing.document, signature)
    status, problem = await node.call("POST", LISTINGS_PATH, body=unsigned.to_json())
    assert (status, problem["code"]) == (401, "invalid-signature")
    await approve(net, domain.digest(unsigned.struct))
    status, kept = await node.call("POST", LISTINGS_PATH, body=unsigned.to_json())
    assert status == 201, kept

    asked = await challenge(node, WALLET)
    end = EndCustody(work.content_id, node.address, node.url, asked.challenge, asked.expiry_s)
    await approve(net, domain.digest(end))
    body = SignedEndCustody(end, signature).to_json()
    status, made = await node.call("POST", END_CUSTODY_PATH, body=body)
    assert status == 200 and len(made["destroyed"]) == 3, made


@pytest.mark.parametrize("code", [LOOPS, LONG, REVERTS, "0x", "0xfe"])
async def test_what_a_strangers_code_does_is_no_signature(net: Testnet, code: str) -> None:
    """A wallet that loops, answers a megabyte, reverts, or is not there, did not sign."""
    await net.rpc.request("anvil_setCode", [WALLET, code])
    digest = domain_of(net).separator
    assert not await is_wallet_signature(net.rpc, WALLET, digest, b"\x01" * 1024)
    assert (await net.chain.head()).number >= 0, "the endpoint is asked on"
