"""Watches videos with a trained detector: from files and live sources to events."""
