"""What a buyer keeps on disk: what was signed, asked and spent, and the node's standing."""
