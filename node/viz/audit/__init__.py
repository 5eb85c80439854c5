"""Audit a node on the auditor's machine: its adapters, its answers and its offers."""
