"""The catalogue of adapters, the admission of requests, and the paid stream."""
