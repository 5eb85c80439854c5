#!/usr/bin/env python3
"""Register a work and its license on chain. For creators; needs no torch and, by default, no gas.

    python scripts/register_content.py examples/works/varn-point --key creator.key.json

signs the registration (EIP-712) and hands it to a node, which submits it. With --direct the
creator's own transaction registers it:

    python scripts/register_content.py examples/works/varn-point --key creator.key.json \\
        --direct --rpc http://127.0.0.1:8545 --deployment .viz/deployment.json

The work is a directory with a terms.toml, or a terms file. The record with the salt is written
beside the work, as <work>.registration.json: keep it; a trainer needs it to check the work. The
password comes from VIZ_KEY_PASSWORD, the file that VIZ_KEY_PASSWORD_FILE names, or a prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
from pathlib import Path

from eth_account.signers.local import LocalAccount

from viz.chain.deployment import load_deployment
from viz.chain.keys import load_key_file
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.config import secret
from viz.domain.units import format_units, parse_address
from viz.errors import VizError
from viz.services.registration import (
    Registration,
    draft,
    read_description,
    record_path,
    register_directly,
    register_through_node,
    registration_context,
)


def _password(key_file: Path) -> str:
    known = secret("VIZ_KEY_PASSWORD").get_secret_value()
    return known or getpass.getpass(f"password of {key_file}: ")


async def _relayed(
    arguments: argparse.Namespace, terms: Path, account: LocalAccount
) -> tuple[Registration, int]:
    creator = parse_address(account.address)
    context = await registration_context(creator, arguments.node)
    description = read_description(terms, token_decimals=context.token_decimals)
    path = terms.parent / description.file
    made = draft(path, description, creator)
    done = await register_through_node(path, made, bytes(account.key), arguments.node)
    return done, context.token_decimals


async def _direct(
    arguments: argparse.Namespace, terms: Path, account: LocalAccount
) -> tuple[Registration, int]:
    deployment = load_deployment(arguments.deployment)
    description = read_description(terms, token_decimals=deployment.token_decimals)
    path = terms.parent / description.file
    rpc = Rpc(arguments.rpc)
    try:
        await rpc.check(deployment)
        made = draft(path, description, parse_address(account.address))
        done = await register_directly(path, made, Sender(rpc, account, deployment))
    finally:
        await rpc.close()
    return done, deployment.token_decimals


def main() -> int:
    """Register the work; return the exit code."""
    parser = argparse.ArgumentParser(description="Register a work and its license on chain.")
    parser.add_argument("work", type=Path, help="a directory with a terms.toml, or a terms file")
    parser.add_argument("--key", type=Path, required=True, help="the creator's encrypted key file")
    parser.add_argument("--node", default="http://127.0.0.1:8402", help="the node that submits it")
    parser.add_argument("--direct", action="store_true", help="register by an own transaction")
    parser.add_argument("--rpc", default="http://127.0.0.1:8545", help="with --direct: the chain")
    parser.add_argument(
        "--deployment",
        type=Path,
        default=Path(".viz/deployment.json"),
        help="with --direct: where the contracts are",
    )
    parser.add_argument("--json", action="store_true", help="print the record (without its salt)")
    arguments = parser.parse_args()
    terms = arguments.work / "terms.toml" if arguments.work.is_dir() else arguments.work
    try:
        account = load_key_file(arguments.key, _password(arguments.key))
        register = _direct if arguments.direct else _relayed
        done, decimals = asyncio.run(register(arguments, terms, account))
    except VizError as error:
        print(f"register: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        shown = {key: value for key, value in done.to_json().items() if key != "salt"}
        print(json.dumps(shown, indent=2))
        return 0
    fee = format_units(done.terms.training_fee_units, decimals)
    print(f"registered  work {done.content_id}: {done.title}")
    print(f"creator     {done.creator}")
    print(f"terms       fee {fee}, at least {done.terms.min_royalty_bps} bps of revenue")
    print(f"record      {record_path(terms.parent / done.file)} (holds the salt: keep it)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
