"""Reading and writing of video files with PyAV.

Frames are RGB, uint8, [H, W, 3]. Reading is honest about damage: a file cut short decodes to fewer
frames than its container declares, without any error from the decoder, so both counts are returned
and the caller decides. Writing is reproducible bit for bit: x264 runs on one thread, because its
threaded rate control isn't deterministic, and without its macroblock tree, which depends on memory
that was never written (small clips then differ from run to run, even in decoded pixels).
"""

import dataclasses
import fractions
import os
import pathlib
from collections.abc import Iterable, Iterator

import av
import numpy as np

from gvvad_jax.store import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a container says of its video stream, before anything is decoded.

    Attributes:
      fps: average frames per second, or None where the container doesn't say.
      declared_frames: the container's frame count, or 0 where it doesn't say.
      height: pixels.
      width: pixels.
    """

    fps: float | None
    declared_frames: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Video:
    """A decoded video.

    Attributes:
      frames_TxHxWx3: RGB uint8.
      fps: frames per second, None where the container doesn't say.
      declared_frames: what the container promised; differs from `len(frames)` on damage.
      damaged_packets: packets that raised while decoding.
    """

    frames_TxHxWx3: np.ndarray
    fps: float | None
    declared_frames: int
    damaged_packets: int


def _stream_info(stream: av.VideoStream) -> VideoInfo:
    fps = float(stream.average_rate) if stream.average_rate else None
    return VideoInfo(fps, stream.frames, stream.codec_context.height, stream.codec_context.width)


def probe(path: str | os.PathLike) -> VideoInfo:
    """Reads the header of a video file. Raises UserError when it isn't a video."""
    with _open(path) as container:
        return _stream_info(container.streams.video[0])


def _open(path: str | os.PathLike):
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise UserError(
            f"{path}: expected a video file, found something PyAV can't open ({error}); "
            "re-download or remove it"
        ) from error
    if not container.streams.video:
        container.close()
        raise UserError(f"{path}: expected a video stream, found none; remove it from the list")
    return container


def read(path: str | os.PathLike) -> Video:
    """Decodes a whole video file, or a folder of frames in name order.

    Damaged packets are skipped and counted, so what can be read is read.

    Args:
      path: a file, or a folder of images.

    Returns:
      The video; `frames_TxHxWx3` has at least one frame.

    Raises:
      UserError: when no frame at all can be decoded.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _read_folder(path)
    frames, damaged = [], 0
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        info = _stream_info(stream)
        for packet in _packets(container, stream):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                damaged += 1
                continue
            frames.extend(frame.to_ndarray(format="rgb24") for frame in decoded)
    if not frames:
        raise UserError(
            f"{path}: expected {info.declared_frames or 'some'} frames, decoded none; "
            "the file is damaged: re-encode or remove it"
        )
    return Video(np.stack(frames), info.fps, info.declared_frames, damaged)


def _packets(container, stream) -> Iterator[av.Packet]:
    """Packets until the end or until the container itself breaks off."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:
            return
        yield packet


def _read_folder(folder: pathlib.Path) -> Video:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(
            f"{folder}: expected a folder of frames ({', '.join(IMAGE_SUFFIXES)}), found none"
        )
    frames = []
    for path in paths:
        with _open(path) as container:
            frame = next(container.decode(video=0))
            frames.append(frame.to_ndarray(format="rgb24"))
    return Video(np.stack(frames), None, len(frames), 0)


def write(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    crf: int = 23,
    keyframe_interval: int = 48,
) -> None:
    """Writes H.264 in an .mp4, whole or not at all, the same bytes for the same frames.

    Args:
      path: the file; it appears under this name only when it is complete.
      frames: RGB uint8 [H, W, 3], all of one even size.
      fps: frames per second.
      crf: x264's quality, 0 (lossless) to 51.
      keyframe_interval: frames between key frames at most.

    Raises:
      UserError: no frames, or odd sizes (yuv420p can't hold them).
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
    rate = fractions.Fraction(fps).limit_denominator(1001)
    try:
        with av.open(str(partial), "w") as container:
            stream = None
            for image_HxWx3 in frames:
                if stream is None:
                    height, width = image_HxWx3.shape[:2]
                    if height % 2 or width % 2:
                        raise UserError(
                            f"{path}: expected even height and width, found {height}x{width}"
                        )
                    stream = container.add_stream("libx264", rate=rate)
                    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                    stream.gop_size = keyframe_interval
                    stream.options = {
                        "crf": str(crf),
                        "preset": "veryfast",
                        "threads": "1",
                        "x264-params": "mbtree=0",
                    }
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HxWx3), "rgb24")
                container.mux(stream.encode(frame))
            if stream is None:
                raise UserError(f"{path}: expected at least one frame to write, found none")
            container.mux(stream.encode())
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
