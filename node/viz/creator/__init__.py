"""The creator's side: what runs outside a node, before and after a work is registered."""
