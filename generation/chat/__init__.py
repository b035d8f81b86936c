"""Ask an OpenAI-compatible chat server for answers that fit a schema."""
