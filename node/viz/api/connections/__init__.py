"""Sockets and connections: listening, limits, and requests that aiohttp refuses."""
