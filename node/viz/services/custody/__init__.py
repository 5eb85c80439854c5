"""Keep sealed works and keys for their owners, hand keys out, and ask custodians for keys."""
