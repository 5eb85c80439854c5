"""A channel's life: its access token, its state here and at the node, both ways to close it."""
