"""Serve HTTP: OpenAI's interface, payment, market, gateway, and the operator's commands."""
