"""The filter: which generated videos are good enough to train on."""
