"""The ledger: what the node must not forget, on disk before anybody is told."""
