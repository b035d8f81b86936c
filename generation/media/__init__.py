"""Video files and folders of images: reading, writing, and measures of pixels."""
