"""A training run on disk: its folder, log, checkpoints and choice of the best."""
