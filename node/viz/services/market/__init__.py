"""Read what other nodes sell, index it, pass on listings of works, and announce this node."""
