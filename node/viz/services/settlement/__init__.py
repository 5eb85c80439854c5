"""Claims: when, in what batches, and whether books and chain agree."""
