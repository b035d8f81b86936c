"""GV-VAD in JAX: the side left of the store, from descriptions and videos to features."""
