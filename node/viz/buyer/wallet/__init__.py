"""The payer's wallet, and the signatures that it makes."""
