"""Define the HTTP messages between a node, its buyers and its creators."""
