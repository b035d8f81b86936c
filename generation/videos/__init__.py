"""Descriptions to videos."""
