"""The built-in world: rendered footage that stands in for real cameras."""
