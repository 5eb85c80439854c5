"""Settlement: when to claim, in which batches, and whether ledger and chain agree."""
