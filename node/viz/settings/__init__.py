"""Every setting of a node, as in `viz.example.toml`, read in one place, and its secrets."""
