"""Video containers, opened with PyAV: which formats are accepted."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

import av

from gvvad_jax.command import UserError

# FFmpeg's names. Playlists and similar formats are left out, because FFmpeg would read whatever
# files they name. Audio formats are accepted so that the error can say that there is no video.
FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "live_flv", "kux", "asf", "asf_o", "ogg"),
    *("mxf", "nut", "dv", "rm", "wtv", "swf", "nuv", "nsv", "pva", "ty", "gxf", "ivf", "obu"),
    *("h261", "h263", "h264", "hevc", "vvc", "evc", "av1", "m4v", "mpegvideo", "vc1", "vc1test"),
    *("cavsvideo", "avs2", "avs3", "dirac", "dnxhd", "mjpeg", "mjpeg_2000", "mpjpeg", "smjpeg"),
    *("yuv4mpegpipe", "gif", "apng", "dhav", "ifv", "hxvs", "lmlm4", "lvf"),
    *("image2", "png_pipe", "jpeg_pipe", "tiff_pipe", "bmp_pipe", "webp_pipe"),
    *("mp3", "wav", "flac", "aac"),
)
# Names with %d are names, not patterns of other files.
_OPTIONS = {
    "format_whitelist": ",".join(FORMATS),
    "protocol_whitelist": "file",
    "pattern_type": "none",
}
# More pixels than 8K has, twice: more means a damaged header.
_MOST_PIXELS = 1 << 26


class UnreadableError(UserError):
    """Nothing can be decoded of a file or folder."""


def nothing_decoded(path: str | os.PathLike, declared_frames: int) -> UnreadableError:
    """Returns the error for a file without a single readable frame."""
    return UnreadableError(
        f"{path}: expected {declared_frames or 'some'} frames, decoded none; "
        "the file is damaged: re-encode or remove it"
    )


@contextlib.contextmanager
def opened(
    path: str | os.PathLike,
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a container and yields it with its first video stream; cover pictures do not count.

    Raises:
      UnreadableError: the file cannot be opened, may name other files, or has no video stream.
    """
    _require_regular(path)
    try:
        # An absolute path, because FFmpeg takes a name with a colon for a protocol.
        container = av.open(os.path.abspath(path), options=_OPTIONS, metadata_errors="replace")
    except Exception as error:  # PyAV raises many kinds for damaged files.
        problem = f"something PyAV can't open ({error}); re-download or remove it"
        if getattr(error, "errno", None) == errno.EINVAL:
            problem = (
                "a format that is not accepted, because it may name other files or is not a "
                "video's; convert it to .mp4 or remove it"
            )
        raise UnreadableError(f"{path}: expected a video file, found {problem}") from error
    with container:
        yield container, video_stream(container, path)


def video_stream(container: av.container.InputContainer, path: str | os.PathLike) -> av.VideoStream:
    """Returns a container's first video stream; cover pictures do not count.

    Args:
      container: the container.
      path: what messages call it.

    Raises:
      UnreadableError: there is none, or its pictures are too large.
    """
    stream = next((s for s in container.streams.video if not _is_cover(s)), None)
    if stream is None or stream.codec_context is None:
        only_cover = stream is None and container.streams.video
        problem = "only a cover picture" if only_cover else "none that can be decoded"
        raise UnreadableError(
            f"{path}: expected a video stream, found {problem}; remove it from the list"
        )
    context = stream.codec_context
    if context.width * context.height > _MOST_PIXELS:
        raise UnreadableError(
            f"{path}: expected pictures of at most {_MOST_PIXELS} pixels, found "
            f"{context.width}x{context.height}; re-encode or remove it"
        )
    context.options = {"max_pixels": str(_MOST_PIXELS)}
    return stream


def _require_regular(path: str | os.PathLike) -> None:
    """Refuses pipes and devices without opening them, because reading them may never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UnreadableError(
            f"{path}: expected a video file, found none that can be read ({error}); correct the "
            "list or restore it"
        ) from error
    if not stat.S_ISREG(mode):
        raise UnreadableError(
            f"{path}: expected a video file, found a folder, pipe or device; remove it from the "
            "list"
        )


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
