"""Video files in and out, and measures of pixels."""
