"""What travels over HTTP between a node, its buyers and its creators, as values."""
