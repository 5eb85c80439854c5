"""Run the creator's side, outside a node: what comes before and after a work is registered."""
