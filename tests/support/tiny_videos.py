"""Small video files, undamaged and damaged, with their videos.json."""

import fractions
import json

import av
import numpy as np

from generation.media.writing import write_video

# Number of frames of each video.
LENGTHS = {"a": 36, "b": 43, "c": 3, "d": 57}


def moving(num_frames, height=64, width=96, seed=0):
    """Returns frames of a textured place through which a box moves."""
    rng = np.random.default_rng(seed)
    place = np.kron(rng.integers(60, 190, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    frames = np.repeat(place[None].astype(np.uint8), num_frames, axis=0)
    for t, frame in enumerate(frames):
        left = 2 * t % (width - 16)
        frame[20:44, left : left + 16] = (40, 30 + t % 200, 200)
    return frames


def write_videos(folder):
    """Writes videos of LENGTHS frames at 10 fps and their list; returns the folder."""
    for seed, (name, length) in enumerate(LENGTHS.items()):
        write_video(folder / f"{name}.mp4", moving(length, seed=seed), fps=10)
    return write_list(folder, LENGTHS).parent


def write_list(folder, names, **fields):
    """Writes a videos.json of normal training videos; `fields` change their entries."""
    entry = {"label": 0, "split": "train"} | fields
    videos = {name: entry | {"file": f"{name}.mp4"} for name in names}
    (folder / "videos.json").write_text(json.dumps({"videos": videos}))
    return folder / "videos.json"


def write_damaged(video_path, path, seed=5):
    """Copies a file and changes bytes all over its pictures."""
    data = bytearray(video_path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(2000, len(data) - 3000, 40):
        data[place] ^= 0xFF
    path.write_bytes(data)


def write_image(path, image_HxWx3):
    """Writes a PNG."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *image_HxWx3.shape[:2], "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HxWx3, "rgb24")))
        container.mux(stream.encode())


def write_with_keyframes(path, frames, interval):
    """Writes an .mp4 of high quality at 10 fps with a key frame at least every `interval`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.gop_size = interval
        for image_HxWx3 in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HxWx3, "rgb24")))
        container.mux(stream.encode())


def write_faststart(path, frames):
    """Writes an .mp4 whose index comes first, so that it opens even when it is truncated."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def write_uneven(path):
    """Writes ten frames at 10 fps, a pause of three seconds, and ten more frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 10)
        for t, image in enumerate(moving(20)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = t + 30 * (t >= 10), fractions.Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
