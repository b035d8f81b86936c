"""Frames and sentences to features."""
