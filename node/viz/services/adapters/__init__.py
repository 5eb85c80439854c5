"""Publish trained adapters, seal their weights, and get weights and manifests from other nodes."""
