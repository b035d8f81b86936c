"""HTML pages: one file each, readable without a network."""
