"""One HTTP client of a node, and one reader of server-sent events."""
