"""Frames of real normal training videos, for image-to-video models to start from.

A clip that starts from a real camera's picture shows that camera's places, light and noise: the gap
between generated and real videos is narrower. Only training videos without anything abnormal are
drawn from, so that nothing of the test set gets into a clip and an event isn't there already.
"""

import os
import pathlib
from typing import TYPE_CHECKING

import av

from generation.media import containers, image_folders, reading
from generation.prompts.descriptions import Description
from generation.world.scenes import stream
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests

if TYPE_CHECKING:
    import PIL.Image


_ENDS = 1 << 16  # bytes of a video's file


class FirstFrames:
    """One frame a description, the same for both twins.

    Args:
      path: videos.json of the real videos.
      seed: of the whole set, beside each description's own.

    Attributes:
      digest: hash of the ids that are drawn from, and of the size and ends of their files.

    Raises:
      UserError: no videos.json, no normal training video in it, or a file of theirs is missing.
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
        files = [[v.id, *_contents(self._annotated.resolve(v))] for v in self._videos]
        self.digest = digests.of_json(files, sort_keys=False)

    def draw(self, description: Description) -> tuple[str, float]:
        """Id of the video, and the place in it, from 0 (its start) to 1 (its end)."""
        rng = stream(self._seed, "first frame", description.seed)
        video = self._videos[int(rng.integers(len(self._videos)))]
        return video.id, round(float(rng.random()), 6)

    def read(self, description: Description, height: int, width: int) -> "PIL.Image.Image":
        """The description's frame: scaled to cover [height, width] pixels, its middle cut out.

        Raises:
          UserError: the video's file isn't where videos.json says, or holds no frame.
        """
        import PIL.Image
        import PIL.ImageOps

        video_id, place = self.draw(description)
        video = next(video for video in self._videos if video.id == video_id)
        image = _frame_at(self._annotated.resolve(video), place)
        return PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.LANCZOS)


def _contents(path: pathlib.Path) -> list[str]:
    """What tells a video from another without decoding it; of a folder of images, their sizes."""
    try:
        if path.is_dir():
            return [
                f"{image.name} {image.stat().st_size}" for image in image_folders.list_images(path)
            ]
        return [digests.of_ends(path, _ENDS)]
    except OSError as error:
        raise UserError(
            f"{path}: expected a video to take first frames from, found none ({error.strerror}); "
            "correct videos.json"
        ) from error


def _frame_at(path: pathlib.Path, place: float) -> "PIL.Image.Image":
    if path.is_dir():
        images = image_folders.list_images(path)
        path, place = images[int(place * len(images))], 0.0
    with containers.opened(path) as (container, video):
        try:
            frame = _decode_at(container, video, place)
        except (OSError, av.FFmpegError):
            frame = None
    if frame is None:
        return _counted_to(path, place)
    turns = round(frame.rotation / 90) % 4
    return frame.to_image().rotate(90 * turns, expand=True) if turns else frame.to_image()


def _counted_to(path: pathlib.Path, place: float) -> "PIL.Image.Image":
    """Decodes from the start, for files in which seeking leads nowhere."""
    import PIL.Image

    reader = reading.Reader(path)
    # The first one too, for a damaged file that doesn't get as far.
    found = dict(reader.frames(sorted({0, int(place * reader.num_frames)})))
    if not found:
        raise containers.nothing_decoded(path, reader.declared_frames)
    return PIL.Image.fromarray(found[max(found)])


def _decode_at(container, video: av.VideoStream, place: float) -> av.VideoFrame | None:
    """Decodes from the key frame before `place` on; a long video isn't read from its start."""
    start, duration = container.start_time or 0, container.duration or 0  # microseconds
    target = start + place * duration
    if place:
        container.seek(int(target))
    frame = None
    for packet in container.demux(video):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue  # Damaged; the next one will do.
        for frame in frames:
            if frame.time is None or frame.time * av.time_base >= target:
                return frame
    return frame
