"""The operator's commands: run a node, train, settle, and answer notices."""
