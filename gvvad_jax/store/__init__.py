"""The feature store, through which generation and gvvad_jax exchange videos. numpy only."""
