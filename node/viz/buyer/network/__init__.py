"""Buy from a network of nodes: find who serves a model, choose, pay within a budget, fail over."""
