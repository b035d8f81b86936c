"""Which generated videos are good enough to train on."""
