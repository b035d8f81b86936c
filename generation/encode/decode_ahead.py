"""Decodes video files ahead of the models: the frames that each snippet needs.

An undamaged file is read twice: first its packets are counted, which determines its snippets, then
it is decoded once. `Source.messages` yields `Chunk`s, the next frames of a video as its streams
(encoders/protocols.py) prepared them, and finally the video's `Ending`; `ahead` runs it in a
thread. Only a few chunks are in memory at any time, however long the video is.

If a file turns out to be damaged, or holds another number of frames than its packets promise, it is
decoded again in one thread. The new messages have a new `DecodePlan` with fresh streams; those of
the old plan are void.
"""

import dataclasses
import pathlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from generation.encode.recipe import Recipe
from generation.encode.reporting import DecodingBar
from generation.encoders.protocols import FrameEncoder, Stream, VisualEncoder
from generation.media import pixels, reading
from generation.media.containers import nothing_decoded
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations

if TYPE_CHECKING:
    import torch

# A chunk is complete when it has this many frames for the encoder, or this many bytes for the
# captioner: enough to fill batches, little enough to keep several chunks in memory.
CHUNK_FRAMES = 96
CHUNK_BYTES = 64 << 20
# Chunks in memory, including the one being decoded and the one being encoded.
CHUNKS_ALIVE = 4
# Time stamps of cameras with a constant rate jitter less.
_UNEVEN_SECONDS = 0.5
# Rates such as 29.97 and 30 differ less.
_OTHER_RATE = 0.01
Message = TypeVar("Message")


@dataclasses.dataclass(frozen=True, eq=False)
class DecodePlan:
    """Where a video's snippets are, and what works on them.

    Attributes:
      video: the video.
      fps: frames per second of the video.
      num_frames: number of frames of the video at `fps`.
      rate: frames per second after the fps policy.
      spans_Tx2: [start, end) of each snippet in frames at `rate`.
      features, captions: the streams of the encoder and of the captioner; None without one.
    """

    video: annotations.VideoAnnotation
    fps: float
    num_frames: int
    rate: float
    spans_Tx2: np.ndarray
    features: Stream
    captions: Stream | None


@dataclasses.dataclass
class Chunk:
    """The next frames of a video, as the streams take them.

    Attributes:
      plan: plan of the video.
      features, captions: prepared frames for the streams of these names.
      last: index in the file of the last frame.
    """

    plan: DecodePlan
    features: list[Any]
    captions: list[Any]
    last: int = -1


@dataclasses.dataclass
class Ending:
    """The end of a video.

    Attributes:
      plan: plan of the video.
      decoded_frames, declared_frames: see reading.Reader.
      faults: warnings about the file.
      pixel_statistics: results of pixels.Meter; None if nothing was measured.
      probes: frames that the encoder prepared for `consistency`, one per measured frame.
    """

    plan: DecodePlan
    decoded_frames: int
    declared_frames: int
    faults: list[str]
    pixel_statistics: dict[str, float] | None
    probes: "list[torch.Tensor]"


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A video that cannot be encoded."""

    video: annotations.VideoAnnotation
    reason: str


class Source:
    """Reads videos for a recipe.

    Args:
      videos: the list of all videos, with files and frame rates.
      recipe: says which frames are needed.
      measure: whether to measure pixels and consistency as well.
      bar: shows the share of the current video's frames that are decoded.
      chunk_frames: frames for the encoder that complete a chunk (default: CHUNK_FRAMES).
    """

    def __init__(
        self,
        videos: annotations.Annotations,
        recipe: Recipe,
        *,
        measure: bool = True,
        bar: DecodingBar | None = None,
        chunk_frames: int | None = None,
    ):
        self._chunk_frames = chunk_frames or CHUNK_FRAMES
        self._videos, self._recipe, self._measure = videos, recipe, measure
        self._bar = bar or DecodingBar(enabled=False)

    def messages(
        self, videos: Iterable[annotations.VideoAnnotation]
    ) -> Generator[Chunk | Ending | Unreadable, None, None]:
        """Yields each video's chunks and then its ending, or that it cannot be encoded.

        Whatever goes wrong with a video, lack of memory included, affects only that video.
        """
        for video in videos:
            self._bar.start(video.id)
            path = self._videos.resolve(video)
            try:
                yield from self._stream(video, path)
            except Exception as error:
                # The path as in the list, because a store must not depend on its videos' location.
                yield Unreadable(video, reason(error).replace(str(path), video.file))

    def _stream(
        self, video: annotations.VideoAnnotation, path: pathlib.Path
    ) -> Iterator[Chunk | Ending]:
        reader = reading.Reader(path, fps=self._recipe.video_fps or video.fps)
        count = reader.num_frames
        # The first pass suffices if it decodes all frames; the second counts them for the third.
        # With several threads, a decoder doesn't always tell of damage.
        for threads in (True, False, False):
            if not count:
                break
            plan, source_F = self._plan(video, reader)
            meter = pixels.Meter(plan.num_frames, plan.fps) if self._measure else None
            frames = _Frames(
                plan, self._recipe.encoder, meter, source_F, reader, self._chunk_frames
            )
            for index, picture in reader.frames(frames.wanted, threads=threads):
                self._bar.update(index + 1, count)
                yield from frames.take(index, picture)
            is_damaged = reader.damaged or reader.decoded_frames < reader.declared_frames
            if reader.decoded_frames == count and not (threads and is_damaged):
                yield from frames.rest()
                yield self._ending(plan, meter, frames.probes, reader)
                return
            count = reader.decoded_frames
        raise nothing_decoded(path, reader.declared_frames)

    def _plan(
        self, video: annotations.VideoAnnotation, reader: reading.Reader
    ) -> tuple[DecodePlan, np.ndarray]:
        """Returns the plan, and the index in the file of each frame at its rate."""
        fps = reader.fps
        if not fps:
            raise UserError(
                f"{self._videos.path}: video {video.id!r}: expected fps, found none in "
                f"{video.file} or here; add it to the entry"
            )
        recipe = self._recipe
        rate, source_F = fps, reader.shown_at(fps)
        num_frames = len(source_F)
        if recipe.fps_policy != "native":
            rate = float(recipe.fps_policy)
            try:
                count = len(alignment.resampled_frames(num_frames, fps, rate))
            except UserError as error:
                raise UserError(f"{self._videos.path}: video {video.id!r}: {error}") from error
            shown_F = reader.shown_at(rate)
            # By the rounding of durations, one more or less than of a video with `num_frames`.
            source_F = shown_F[np.minimum(np.arange(count), len(shown_F) - 1)]
        spans_Tx2 = alignment.snippet_spans(
            len(source_F), recipe.snippet_frames, recipe.snippet_stride
        )
        begin = spans_Tx2, len(source_F), rate
        features = recipe.encoder.begin(*begin)
        captioner = recipe.pixel_captioner
        captions = captioner.begin(*begin) if captioner is not None else None
        plan = DecodePlan(video, fps, num_frames, rate, spans_Tx2, features, captions)
        return plan, source_F

    def _ending(
        self,
        plan: DecodePlan,
        meter: pixels.Meter | None,
        probes: "list[torch.Tensor]",
        reader: reading.Reader,
    ) -> Ending:
        faults = []
        if reader.damaged:
            faults.append(
                f"{reader.damaged} packets or frames are damaged; the decodable frames are encoded"
            )
        if reader.uneven_seconds > _UNEVEN_SECONDS:
            faults.append(
                f"frames are up to {reader.uneven_seconds:.1f} s from where {plan.fps:g} fps puts "
                "them; each is shown until the next one"
            )
        if reader.file_fps and abs(plan.fps / reader.file_fps - 1) > _OTHER_RATE:
            faults.append(
                f"the file says {reader.file_fps:g} fps; {plan.fps:g} fps are used, as asked for"
            )
        statistics = None
        if meter is not None:
            statistics = meter.statistics(reader.decoded_frames, reader.declared_frames)
        return Ending(
            plan, reader.decoded_frames, reader.declared_frames, faults, statistics, probes
        )


def reason(error: Exception) -> str:
    """Returns why a video cannot be encoded, in one line."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return (
            "expected enough memory to encode the video, found too little; free some, or make its "
            "pictures smaller"
        )
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"expected a video that can be encoded, found {text}; re-encode or remove it"


class _Frames:
    """Distributes a video's frames to streams and meter, and yields chunks.

    Args:
      plan: plan of the video.
      encoder: prepares what `consistency` needs, if it embeds frames.
      meter: measures pixels; None to measure neither pixels nor consistency.
      source_F: index in the file of each frame at the plan's rate.
      reader: the file.
      chunk_frames: see Source.

    Attributes:
      wanted: every frame of the file that is needed, ascending.
      probes: frames that the encoder prepared for `consistency` so far.
    """

    def __init__(
        self,
        plan: DecodePlan,
        encoder: VisualEncoder,
        meter: pixels.Meter | None,
        source_F: np.ndarray,
        reader: reading.Reader,
        chunk_frames: int,
    ):
        self._chunk_frames = chunk_frames
        self.probes: list[torch.Tensor] = []
        self._plan, self._meter = plan, meter
        self._encoder = encoder if isinstance(encoder, FrameEncoder) else None
        measured = np.zeros(0, np.int64)
        if meter is not None:
            measured = reader.shown_at(plan.fps)[meter.wanted]
        self._measured = _Queue(measured)
        self._features = _Queue(source_F[plan.features.wanted_F])
        captions = plan.captions
        self._captions = _Queue(source_F[captions.wanted_F] if captions else measured[:0])
        queues = self._measured, self._features, self._captions
        self.wanted = np.unique(np.concatenate([queue.frames for queue in queues]))
        self._chunk = Chunk(plan, [], [])
        self._distinct, self._bytes = 0, 0

    def take(self, index: int, picture: reading.Picture) -> Iterator[Chunk]:
        """Takes the next of the wanted frames and yields the chunk that it completes."""
        for _ in range(self._measured.count(index)):
            self._meter.add(picture.scaled(picture.width, picture.height, "gray"))
            if self._encoder is not None:
                self.probes.append(self._encoder.prepare_whole(picture))
        if times := self._features.count(index):
            self._chunk.features += [self._plan.features.prepare(picture)] * times
            self._distinct += 1
        if times := self._captions.count(index):
            prepared = self._plan.captions.prepare(picture)
            self._chunk.captions += [prepared] * times
            self._bytes += prepared.nbytes
        self._chunk.last = index
        if self._distinct >= self._chunk_frames or self._bytes >= CHUNK_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[Chunk]:
        """Yields the last chunk, if there are frames left."""
        chunk, self._chunk = self._chunk, Chunk(self._plan, [], [])
        self._distinct = self._bytes = 0
        if chunk.features or chunk.captions:
            yield chunk


class _Queue:
    """Frames of a file that somebody waits for, ascending; one may be wanted several times."""

    def __init__(self, frames: np.ndarray):
        self.frames = frames
        self._next = 0

    def count(self, index: int) -> int:
        """Takes a frame from the queue's head; returns how many times it is wanted."""
        start = self._next
        while self._next < len(self.frames) and self.frames[self._next] == index:
            self._next += 1
        return self._next - start


def ahead(messages: Generator[Message, None, None], alive: int) -> Generator[Message, None, None]:
    """Runs a generator in a thread, so that it works while its items are processed.

    Args:
      messages: the generator; the thread closes it when this generator ends or is closed.
      alive: number of items in memory: those that wait, the one being made and the last one
        yielded.

    Raises:
      Exception: whatever `messages` raises.
    """
    out: queue.SimpleQueue[tuple[Message | None, BaseException | None]] = queue.SimpleQueue()
    room, stop = threading.Semaphore(alive), threading.Event()

    def run() -> None:
        try:
            while True:
                room.acquire()
                if stop.is_set():
                    return
                out.put((next(messages), None))
        except BaseException as error:
            out.put((None, error))
        finally:
            messages.close()

    thread = threading.Thread(target=run, name="decode", daemon=True)
    thread.start()
    try:
        while True:
            message, error = out.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield message
            del message
            room.release()
    finally:
        stop.set()
        room.release()
        thread.join()
