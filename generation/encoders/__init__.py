"""Encoders: frames to features and captions, sentences to vectors."""
