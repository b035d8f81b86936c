"""Elements to twin descriptions, by a grammar or a language model."""
