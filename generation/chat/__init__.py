"""A client of any OpenAI-compatible chat server."""
