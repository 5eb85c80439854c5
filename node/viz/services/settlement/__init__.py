"""Claims: when they are due, in what batches, and whether ledger and chain agree."""
