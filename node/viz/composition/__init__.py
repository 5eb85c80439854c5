"""Build the services of one node over its backends, and connect them to each other."""
