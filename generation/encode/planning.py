"""What encoding a set of videos will take, by headers and a few seconds of a few videos."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tqdm

from generation.encode import decode_ahead, provenance
from generation.encode.recipe import EncodeOptions, Recipe, parse_fps_policy
from generation.media import headers
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.parts import Parts
from gvvad_jax.store.workers import cores

# Threads that read headers: they wait for the disk more than they compute.
_READERS = 16
# How many videos are encoded for the estimate of time, how many seconds of each, and how many
# seconds that may take.
_SAMPLES, _SAMPLE_SECONDS, _PATIENCE = 3, 8.0, 10.0
# Bytes of a file whose digest is timed, and frames of a chunk.
_DIGESTED, _CHUNK_FRAMES = 1 << 25, 16
_OTHER_RATE = 0.01


@dataclasses.dataclass(frozen=True)
class Planned:
    """What is expected of one video.

    Attributes:
      video: the video.
      num_bytes: its size.
      seconds, num_snippets: its length and rows; 0 if it can't be encoded.
      failure: why it can't be encoded; empty if nothing is known.
      faults: what will be reported of it.
    """

    video: annotations.VideoAnnotation
    num_bytes: int = 0
    seconds: float = 0.0
    num_snippets: int = 0
    failure: str = ""
    faults: tuple[str, ...] = ()


def plan(
    videos_path: str | os.PathLike,
    out: str | os.PathLike,
    options: EncodeOptions,
    *,
    prompts_path: str | os.PathLike | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Estimates what `encoding.encode` with the same arguments would take; writes nothing there.

    Args:
      videos_path, out, options, prompts_path, workers, progress: see encoding.encode.

    Returns:
      videos, done (in the store already), hours, snippets; bytes of the store, and seconds of
      encoding what isn't done, each None if unknown; a_video_second {seconds, cpu_seconds},
      measured in one process; failures {id: why} and warnings {id: [...]} of the videos; notes.

    Raises:
      UserError: the list or the options are wrong.
    """
    videos = annotations.load(videos_path)
    descriptions = provenance.descriptions_by_id(prompts_path)
    notes, recipe = _recipe(options, out)
    if recipe is not None and recipe.uses_descriptions:
        provenance.require_descriptions(videos.videos, descriptions, prompts_path)
    planned = list(_planned(videos, options, progress))
    encodable = [each for each in planned if not each.failure]
    done = _done(pathlib.Path(out), videos.videos)
    todo = [each for each in encodable if each.video.id not in done]
    result: dict[str, Any] = {
        "videos": len(planned),
        "done": len(done),
        "hours": sum(each.seconds for each in encodable) / 3600,
        "snippets": sum(each.num_snippets for each in encodable),
        "bytes": None,
        "seconds": None,
        "a_video_second": None,
    }
    if recipe is not None:
        row = recipe.encoder.dim * recipe.encoder.crops["count"]
        row += recipe.text_encoder.dim if recipe.text_encoder is not None else 0
        width = 2 if recipe.dtype == "float16" else 4
        result["bytes"] = width * row * result["snippets"]
        notes += _room(out, result["bytes"])
    if recipe is not None and todo:
        speed = _measure(videos, recipe, todo)
        result["a_video_second"] = {name: speed[name] for name in ("seconds", "cpu_seconds")}
        result["seconds"] = _total(todo, speed, workers)
    failures = {each.video.id: each.failure for each in planned if each.failure}
    warnings = {each.video.id: list(each.faults) for each in planned if each.faults}
    return result | {"failures": failures, "warnings": warnings, "notes": notes}


def report(result: Mapping[str, Any]) -> str:
    """The plan as text for people."""
    size, seconds = result["bytes"], result["seconds"]
    lines = [
        *(f"warning: {name}: {fault}" for name, faults in result["warnings"].items()
          for fault in faults),
        *(f"warning: {name}: will not be encoded: {why}"
          for name, why in result["failures"].items()),
        *result["notes"],
        f"{result['videos']} videos ({len(result['failures'])} can't be encoded, {result['done']} "
        f"are done), {result['hours']:.1f} hours, {result['snippets']} snippets",
        "store: " + ("size unknown" if size is None else f"{size / 1e6:.3g} MB"),
    ]  # fmt: skip
    if seconds is not None:
        pace = result["a_video_second"]
        lines.append(
            f"time: about {_duration(seconds)}, by {pace['seconds']:.3g} seconds "
            f"({pace['cpu_seconds']:.3g} of CPU) a second of video"
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _recipe(options: EncodeOptions, out: str | os.PathLike) -> tuple[list[str], Recipe | None]:
    """Returns notes, and the recipe; None if its weights would have to be fetched."""
    notes = []
    if options.captioner == "chat":
        # No server is asked; rules stand in for its captions.
        options = dataclasses.replace(options, captioner="rules")
        notes.append("captions by a server aren't in the time")
    missing = [key for key, digest in options.fingerprint()["weights"].items() if digest is None]
    if missing:
        flags = ", ".join(f"--{name}" for name in missing)
        notes.append(f"{flags}: not on this machine, so that size and time aren't known")
        return notes, None
    return notes, options.recipe(out)


def _planned(
    videos: annotations.Annotations, options: EncodeOptions, progress: bool
) -> Iterator[Planned]:
    """Yields what is expected of each video."""
    listed = list(videos.videos.values())
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        expected = pool.map(lambda video: _expected(videos, video, options), listed)
        yield from tqdm.tqdm(
            expected, "headers", len(listed), unit="video", disable=not progress, delay=2
        )


def _expected(
    videos: annotations.Annotations, video: annotations.VideoAnnotation, options: EncodeOptions
) -> Planned:
    path = videos.resolve(video)
    try:
        header = headers.read(path)
        fps = options.video_fps or video.fps or header.fps
        if not fps:
            raise UserError("expected fps in the list, found none there or in the file; add it")
        seconds = header.seconds or header.num_frames / fps
        policy, num_frames = parse_fps_policy(options.fps_policy), max(1, round(seconds * fps))
        if policy != "native":
            num_frames = len(alignment.resampled_frames(num_frames, fps, float(policy)))
        spans = alignment.snippet_spans(num_frames, options.snippet_frames, options.stride)
    except Exception as error:
        return Planned(video, failure=decode_ahead.reason(error).replace(str(path), video.file))
    faults = list(header.faults)
    if num_frames < options.snippet_frames:
        faults.append(
            f"it is shorter than a snippet: {num_frames} frames of {options.snippet_frames}"
        )
    if header.fps and abs(fps / header.fps - 1) > _OTHER_RATE:
        faults.append(f"the file says {header.fps:g} fps; {fps:g} fps are used, as asked for")
    faults += annotations.contradictions(video, round(seconds * fps), fps)
    return Planned(video, header.num_bytes, seconds, len(spans), faults=tuple(faults))


def _done(out: pathlib.Path, video_ids: Iterable[str]) -> set[str]:
    """Returns the videos that the store has, by their ids alone."""
    from gvvad_jax.store.format import shard_paths
    from gvvad_jax.store.reader import read_rows

    parts = Parts(out / "parts")
    done = {video_id for video_id in video_ids if video_id in parts}
    with contextlib.suppress(UserError):  # Damage is reported, and repaired, when it encodes.
        done |= {row.id for shard in shard_paths(out) for row in read_rows(shard)}
    return done & set(video_ids)


def _room(out: str | os.PathLike, num_bytes: int) -> list[str]:
    """Says whether the disk has too little room for the store."""
    folder = pathlib.Path(os.path.abspath(out))
    folder = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(folder).free
    if free > num_bytes:
        return []
    return [f"{folder}: {free / 1e9:.3g} GB are free, too little for {num_bytes / 1e9:.3g} GB"]


def _measure(
    videos: annotations.Annotations, recipe: Recipe, todo: Sequence[Planned]
) -> dict[str, float]:
    """Encodes a few seconds of a few videos, none of the longest.

    Returns:
      seconds, cpu_seconds: of one process, for a second of video; bytes_a_second: of digests.
    """
    by_length = sorted(todo, key=lambda each: each.seconds)
    places = {round(share * (len(todo) - 1)) for share in (0.25, 0.5, 0.75)}
    samples = [by_length[place].video for place in sorted(places)][:_SAMPLES]
    _encode_start(videos, recipe, samples[0], 0.0)  # Loads what is loaded late.
    video_seconds, began = 0.0, (time.perf_counter(), time.process_time())
    for video in samples:
        video_seconds += _encode_start(videos, recipe, video, _SAMPLE_SECONDS)
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    began, digested = (time.perf_counter(), 0.0), 0
    for video in samples:
        path = videos.resolve(video)
        if path.is_file():
            with open(path, "rb") as file:
                content = file.read(_DIGESTED)
            hashlib.sha256(content).digest()
            digested += len(content)
    pace = digested / max(time.perf_counter() - began[0], 1e-9)
    share = max(video_seconds, 1e-9)
    return {"seconds": wall / share, "cpu_seconds": cpu / share, "bytes_a_second": pace}


def _encode_start(
    videos: annotations.Annotations,
    recipe: Recipe,
    video: annotations.VideoAnnotation,
    seconds: float,
) -> float:
    """Encodes a video's first seconds, at least a chunk; returns how many."""
    source = decode_ahead.Source(videos, recipe, chunk_frames=_CHUNK_FRAMES)
    covered = 0.0
    messages = _first(source.messages([video]), seconds)
    with contextlib.closing(decode_ahead.ahead(messages, decode_ahead.CHUNKS_ALIVE)) as decoded:
        for message in decoded:
            if not isinstance(message, decode_ahead.Chunk):
                continue
            message.plan.features.take(message.features)
            if message.plan.captions is not None:
                captions = message.plan.captions.take(message.captions)
                if recipe.text_encoder is not None and captions:
                    recipe.text_encoder(captions)
            covered = max(covered, _end_of(message))
    return covered


def _first(messages: Iterator[Any], seconds: float) -> Iterator[Any]:
    """Yields messages until they cover a video's first seconds, or have taken too long."""
    latest = time.monotonic() + _PATIENCE
    with contextlib.closing(messages):
        for message in messages:
            yield message
            is_chunk = isinstance(message, decode_ahead.Chunk)
            if is_chunk and (_end_of(message) >= seconds or time.monotonic() > latest):
                return


def _end_of(chunk: decode_ahead.Chunk) -> float:
    """The seconds of video until the last frame of a chunk."""
    return (chunk.last + 1) / chunk.plan.fps


def _total(todo: Sequence[Planned], speed: Mapping[str, float], workers: int) -> float:
    """The expected seconds of all videos: processes share cores, which one may not fill."""
    seconds = sum(each.seconds for each in todo)
    shared = max(speed["seconds"] / workers, speed["cpu_seconds"] / max(1, len(cores())))
    shared = min(shared, speed["seconds"])
    return seconds * shared + sum(each.num_bytes for each in todo) / speed["bytes_a_second"]
