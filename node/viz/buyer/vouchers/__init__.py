"""Vouchers: how much may be signed, what the node holds, what it billed and did not deliver."""
