"""Train adapters on licensed works, and audit adapters of others."""
