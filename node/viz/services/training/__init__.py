"""Training as a service of the node."""
