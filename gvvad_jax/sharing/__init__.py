"""Detectors to share: as folders of safetensors and JSON, and on the Hugging Face Hub."""
