"""The rules of the market: what a node does, told to small Protocols, never to a library."""
