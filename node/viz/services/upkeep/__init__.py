"""What keeps a daemon running: supervised loops, expiry of old rows, and its clock."""
