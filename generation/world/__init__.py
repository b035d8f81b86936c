"""The built-in world: a renderer that stands in for real cameras and for a video generator."""
