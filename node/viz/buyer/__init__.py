"""A buyer: keys, a ledger of what was signed, a paying client, and an OpenAI-compatible proxy."""
