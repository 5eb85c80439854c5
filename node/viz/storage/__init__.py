"""Blobs by content identifier: their names, their layout in blocks, and where they are stored."""
