"""Offer adapters, admit paid requests, and stream their answers."""
