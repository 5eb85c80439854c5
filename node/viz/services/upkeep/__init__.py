"""Upkeep of a daemon: supervised loops, deletion of expired rows, and the check of its clock."""
