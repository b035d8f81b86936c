"""Moving textures, and small video files of them with a videos.json."""

import json
import pathlib

import cv2
import numpy as np

from generation.media.writing import write_video


def texture(shape=(96, 144), seed=0):
    noise = np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)


def moving(step=2, frames=9, shape=(96, 144)):
    """Returns frames of a texture that moves `step` pixels to the right per frame."""
    image = np.tile(texture(shape), (1, 2))
    width = shape[1]
    video = [image[:, width - i * step : 2 * width - i * step] for i in range(frames)]
    return np.repeat(np.uint8(video)[..., None], 3, axis=-1)


def write_videos(folder: pathlib.Path, counts=(3, 3), prefix="") -> pathlib.Path:
    """Writes normal videos of slow textures and abnormal ones with a fast second half.

    Args:
      folder: the folder of the videos.
      counts: number of normal and of abnormal videos.
      prefix: of the videos' ids.

    Returns:
      The path of their videos.json.
    """
    videos = {}
    for label, count in enumerate(counts):
        for i in range(count):
            frames = moving(step=1 + i % 2, frames=12, shape=(48, 72))
            if label:
                frames[6:] = moving(step=6, frames=6, shape=(48, 72))
            name = f"{prefix}{'ab'[label]}{i}"
            write_video(folder / f"{name}.mp4", frames, fps=10)
            videos[name] = {
                "file": f"{name}.mp4",
                "label": label,
                "split": "train" if i < 2 else "test",
                "abnormal_frames": [[6, 12]] if label else [],
            }
    path = folder / "videos.json"
    path.write_text(json.dumps({"fps": 10, "videos": videos}))
    return path
