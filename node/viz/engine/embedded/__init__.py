"""The engine inside the node's own process."""
