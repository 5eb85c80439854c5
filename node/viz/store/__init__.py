"""The ledger: the node's durable state, on disk before any caller is answered."""
