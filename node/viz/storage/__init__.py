"""Blobs by content identifier: what they are called, how they are split, where they lie."""
