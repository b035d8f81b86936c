"""Studies: many runs of one question, their statistics and their tables."""
