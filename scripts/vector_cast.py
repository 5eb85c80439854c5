"""Name the keys, addresses and contracts of the golden vectors."""

from __future__ import annotations

from viz.domain.eip712 import keccak, public_address
from viz.domain.units import Address, Hash32

CHAIN_ID = 31337
SIGNER_KEY = keccak(b"viz vectors: signer")
NODE_KEY = keccak(b"viz vectors: node")
PAYER_KEY = keccak(b"viz vectors: payer")
SIGNER, NODE, PAYER = (public_address(key) for key in (SIGNER_KEY, NODE_KEY, PAYER_KEY))
SETTLEMENT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
CONTENT_REGISTRY = Address("0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512")
TOKEN = Address("0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0")


def word(label: str) -> Hash32:
    return keccak(label.encode())
