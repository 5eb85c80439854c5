#!/usr/bin/env python3
"""Deploy the contracts to a chain, or check an existing deployment against it.

    python scripts/deploy.py --key-file deployer.key.json --out .viz/deployment.json
    python scripts/deploy.py --development --out .viz/deployment.json      a local anvil

The password comes from VIZ_KEY_PASSWORD, the file that VIZ_KEY_PASSWORD_FILE names, or a prompt.
Run again with the same --out, it creates nothing and checks what is there.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from pathlib import Path

from eth_account.signers.local import LocalAccount

from viz.chain.deploy import CLOSE_DELAY_S, ensure_deployed
from viz.chain.keys import development_account, load_key_file
from viz.chain.rpc import Rpc
from viz.domain.ports.chain import Deployment
from viz.domain.units import parse_address
from viz.errors import ConfigError, VizError
from viz.private import be_private
from viz.settings.secret import secret


def _account(arguments: argparse.Namespace) -> LocalAccount:
    if arguments.development:
        return development_account(0)
    if arguments.key_file is None:
        raise ConfigError("name the deployer's --key-file, or say --development on a local chain")
    password = secret("VIZ_KEY_PASSWORD").get_secret_value()
    return load_key_file(
        arguments.key_file, password or getpass.getpass(f"password of {arguments.key_file}: ")
    )


async def _deploy(arguments: argparse.Namespace, account: LocalAccount) -> Deployment:
    rpc = Rpc(arguments.rpc)
    try:
        return await ensure_deployed(
            rpc,
            account,
            arguments.out,
            token=parse_address(arguments.token) if arguments.token else None,
            close_delay_s=arguments.close_delay,
        )
    finally:
        await rpc.close()


def main() -> int:
    """Deploy or check; return the exit code."""
    parser = argparse.ArgumentParser(description="Deploy the contracts, or check a deployment.")
    parser.add_argument("--rpc", default="http://127.0.0.1:8545", help="the chain's JSON-RPC URL")
    parser.add_argument("--out", type=Path, default=Path(".viz/deployment.json"))
    parser.add_argument("--key-file", type=Path, help="the deployer's encrypted key file")
    parser.add_argument(
        "--development", action="store_true", help="use the first account of a local anvil"
    )
    parser.add_argument("--token", help="the ERC-20 (with EIP-3009) that everything is paid in")
    parser.add_argument("--close-delay", type=int, default=CLOSE_DELAY_S, help="in seconds")
    arguments = parser.parse_args()
    existed = arguments.out.exists()
    be_private()  # the folder will hold keys and ledgers; the file itself is public
    try:
        account = _account(arguments)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)  # before anything costs gas
        deployment = asyncio.run(_deploy(arguments, account))
    except VizError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"deploy: {error.filename}: {error.strerror}: choose another --out", file=sys.stderr)
        return 1
    print(f"chain            {deployment.chain_id}")
    print(f"token            {deployment.token}")
    print(f"ContentRegistry  {deployment.content_registry}")
    print(f"AdapterRegistry  {deployment.adapter_registry}")
    print(f"Settlement       {deployment.settlement}")
    print(f"NodeDirectory    {deployment.node_directory}")
    print(f"{'checked' if existed else 'wrote'} {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
