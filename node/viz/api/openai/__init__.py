"""OpenAI's interface: requests read strictly, answers and streams, and the paid routes."""
