"""The local OpenAI-compatible API that pays for answers."""
