"""GV-VAD in JAX: the detector side, from feature stores to anomaly scores."""
