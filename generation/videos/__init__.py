"""Generate a video of each description, by the built-in world or by a diffusers pipeline."""
