"""Take frames of real normal training videos as first frames for image-to-video models.

A video that starts from a real camera's picture shows that camera's place, light and noise, which
narrows the gap between generated and real videos. Only normal training videos are used, so that
nothing of the test set enters a generated video and no event has already begun. Videos that
videos.json names for validation give none. Where training itself draws the validation videos, it
leaves out the generated videos of their groups: a generated video is of its first frame's group.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import av

from generation.media import containers, image_folders, reading
from generation.prompts.descriptions import Description
from generation.world.scenes import stream
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests

if TYPE_CHECKING:
    import PIL.Image


class FirstFrames:
    """Gives each description a first frame, the same for both twins.

    Args:
      path: videos.json of the real videos.
      seed: seed of the whole set, beside each description's own.

    Attributes:
      digest: digest of the eligible videos' ids and files.

    Raises:
      UserError: videos.json is missing or lists no normal training video, or a file is missing.
    """

    def __init__(self, path: str | os.PathLike, seed: int):
        self._annotated = annotations.load(path)
        self._seed = seed
        normal = [video for video in self._annotated.in_split("train") if not video.label]
        self._videos = sorted(normal, key=lambda video: video.id)
        if not self._videos:
            raise UserError(
                f"--first_frames: {path}: expected normal videos in split train, found none; "
                "give the videos.json of the real videos"
            )
        files = [[v.id, contents(self._annotated.resolve(v))] for v in self._videos]
        self.digest = digests.of_json(files, sort_keys=False)

    def draw(self, description: Description) -> tuple[str, float]:
        """Returns the id of a video, and a position in it from 0 (start) to 1 (end)."""
        rng = stream(self._seed, "first frame", description.seed)
        video = self._videos[int(rng.integers(len(self._videos)))]
        return video.id, round(float(rng.random()), 6)

    def prepare(
        self, descriptions: Sequence[Description], folder: str | os.PathLike, device: str
    ) -> None:
        """Does what `draw` needs first: nothing here; see NearestFrames."""

    def group(self, video_id: str) -> str:
        """Returns the group of a video, which is its own id where it has none."""
        return self._annotated.videos[video_id].kin

    def read(self, description: Description, height: int, width: int) -> "PIL.Image.Image":
        """Reads the description's frame, scaled and cropped to [height, width] about its centre.

        Raises:
          UserError: the video's file is missing or has no readable frame.
        """
        import PIL.Image
        import PIL.ImageOps

        video_id, place = self.draw(description)
        video = next(video for video in self._videos if video.id == video_id)
        image = frame_at(self._annotated.resolve(video), place)
        return PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.LANCZOS)


def contents(path: pathlib.Path) -> str:
    """Returns the digest of a video's file, or of the names and files of a folder of images."""
    try:
        if path.is_dir():
            return digests.of_files(path, image_folders.list_images(path))
        return digests.of_file(path)
    except OSError as error:
        raise UserError(
            f"{path}: expected a video to take first frames from, found none ({error.strerror}); "
            "correct videos.json"
        ) from error


def frame_at(path: pathlib.Path, place: float) -> "PIL.Image.Image":
    """Returns the frame at a position in a video or folder of images, from 0 to 1.

    Raises:
      UserError: nothing of it can be decoded.
    """
    import PIL.Image

    if path.is_dir():
        images = image_folders.list_images(path)
        path, place = images[int(place * len(images))], 0.0
    with containers.opened(path) as (container, video):
        try:
            frame = _decode_at(container, video, place)
        except Exception:  # PyAV raises many kinds for damaged files.
            frame = None
    if frame is None:
        return _decode_from_start(path, place)
    return PIL.Image.fromarray(reading.upright_rgb(frame))


def _decode_from_start(path: pathlib.Path, place: float) -> "PIL.Image.Image":
    """Decodes from the start, for files that do not support seeking."""
    import PIL.Image

    reader = reading.Reader(path)
    # The first frame too, in case a damaged file ends before the position.
    wanted = sorted({0, int(place * reader.num_frames)})
    frames = {index: picture.rgb() for index, picture in reader.frames(wanted)}
    if not frames:
        raise containers.nothing_decoded(path, reader.declared_frames)
    return PIL.Image.fromarray(frames[max(frames)])


def _decode_at(
    container: av.container.InputContainer, video: av.VideoStream, place: float
) -> av.VideoFrame | None:
    """Decodes from the key frame before `place`, not from the start of a long video."""
    start, duration = container.start_time or 0, container.duration or 0  # microseconds
    target = start + place * duration
    if place:
        container.seek(int(target))
    frame = None
    for packet in container.demux(video):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue  # It is damaged; take the next one.
        for frame in frames:
            if frame.time is None or frame.time * av.time_base >= target:
                return frame
    return frame
