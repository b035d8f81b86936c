"""Encoding of videos into a feature store."""
