"""Small H.264 files, sound and otherwise, and their videos.json."""

import fractions
import json

import av
import numpy as np

from generation.media.writing import write_video

# Frames of each clip.
CLIPS = {"a": 36, "b": 43, "c": 3, "d": 57}


def moving(num_frames, height=64, width=96, seed=0):
    """A textured place with a box walking through."""
    rng = np.random.default_rng(seed)
    place = np.kron(rng.integers(60, 190, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    frames = np.repeat(place[None].astype(np.uint8), num_frames, axis=0)
    for t, frame in enumerate(frames):
        left = 2 * t % (width - 16)
        frame[20:44, left : left + 16] = (40, 30 + t % 200, 200)
    return frames


def write_clips(folder):
    """CLIPS, at 10 frames a second, and their list."""
    for seed, (name, length) in enumerate(CLIPS.items()):
        write_video(folder / f"{name}.mp4", moving(length, seed=seed), fps=10)
    return write_list(folder, CLIPS).parent


def write_list(folder, names, **fields):
    """The videos.json of normal training videos, or of what the fields say."""
    entry = {"label": 0, "split": "train"} | fields
    videos = {name: entry | {"file": f"{name}.mp4"} for name in names}
    (folder / "videos.json").write_text(json.dumps({"videos": videos}))
    return folder / "videos.json"


def write_damaged(clip, path, seed=5):
    """The same file with bytes changed all over its pictures."""
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(2000, len(data) - 3000, 40):
        data[place] ^= 0xFF
    path.write_bytes(data)


def write_faststart(path, frames):
    """An .mp4 whose index comes first, so that it can be cut short and still be opened."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def write_uneven(path):
    """Ten frames at 10 a second, a pause of three seconds, ten more."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 10)
        for t, image in enumerate(moving(20)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = t + 30 * (t >= 10), fractions.Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
