"""The whole life of a withdrawal on a real chain and node, with the chain's time moved."""
