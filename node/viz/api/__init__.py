"""The node's HTTP application: OpenAI's interface, payment, market, gateway, operator."""
