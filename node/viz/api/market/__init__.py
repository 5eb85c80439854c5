"""Works, licenses, listings, notices, offers, and the market of all nodes."""
