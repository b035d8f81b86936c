"""Scores video files one after another: finds their events, writes their outputs, resumes."""

import dataclasses
import errno
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm

from gvvad_jax import drift, events
from gvvad_jax.command import Interrupted, raise_if_interrupted
from gvvad_jax.events import Event
from gvvad_jax.store import annotations, digests, folders
from tools.watching import footage, outputs, thumbnails
from tools.watching.detector import Detector, open_detector
from tools.watching.options import WatchOptions
from tools.watching.scoring import Scores, score_file
from tools.watching.sources import VideoFile, output_name


def score(videos: Sequence[VideoFile], options: WatchOptions, models: Any = None) -> None:
    """Scores videos and writes their outputs; prints a summary as JSON.

    Args:
      videos: the videos.
      options: what to do.
      models: where the encoder's checkpoints are, an options.ModelOptions.

    Raises:
      UserError: a fault of the run or the folder.
      Interrupted: no video could be scored.
      SystemExit: status 3; some videos couldn't be scored, which were named.
    """
    folders.require_own(options.out, outputs.KIND)
    detector = open_detector(options, models)
    lock = folders.claim(options.out, outputs.KIND) / ".lock"
    busy = folders.busy(options.out, "write there", ", or give another --out")
    failed: list[str] = []
    counts = {"scored": 0, "skipped": 0, "events": 0}
    with folders.locked(lock, busy):
        folder = outputs.Folder(options.out)
        names, taken = [], folder.places
        for video in videos:
            names.append(output_name(video, taken))
        work = Work(detector, folder, clips=options.clips)
        for video, name in tqdm.tqdm(
            list(zip(videos, names, strict=True)), "videos", unit="video", disable=None
        ):
            try:
                counts["scored" if work.do(video, name) else "skipped"] += 1
                counts["events"] += folder.events_of(name)
            except Exception as error:
                raise_if_interrupted()
                if _of_disk(error, options.out):
                    raise  # It would be every video's.
                failed.append(name)
                folder.discard(name)
                _tell(f"warning: {video.given}: not scored: {_reason(error, video)}")
        folder.write_events()
    print(json.dumps({"out": options.out, **counts, "failed": len(failed)}))
    if failed and len(failed) == len(videos):
        raise Interrupted(f"no video of {len(videos)} could be scored; the reasons stand above")
    if failed:
        print(
            f"{options.out}: {len(failed)} of {len(videos)} videos could not be scored, the others "
            "are there; the reasons stand above",
            file=sys.stderr,
        )
        sys.exit(3)


def _of_disk(error: Exception, out: str) -> bool:
    """Tells whether an error is of the folder that is written to."""
    if not isinstance(error, OSError):
        return False
    named = str(error.filename or "").startswith(str(out))
    return named or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _reason(error: Exception, video: VideoFile) -> str:
    from generation.encode import decode_ahead

    text = decode_ahead.reason(error)
    return text.removeprefix(f"{video.path}: ").removeprefix(f"{video.path.name}: ")


def _tell(line: str) -> None:
    tqdm.tqdm.write(line, file=sys.stderr)


class Work:
    """The work on one video after another.

    Args:
      detector: the detector.
      folder: where outputs go.
      clips: whether events are cut out.
    """

    def __init__(self, detector: Detector, folder: outputs.Folder, *, clips: bool):
        self._detector, self._folder, self._clips = detector, folder, clips

    def do(self, video: VideoFile, name: str) -> bool:
        """Scores a video and writes its outputs; returns whether there was anything to do.

        Raises:
          UnreadableVideo: nothing of it can be encoded.
        """
        from generation.encode.reporting import DecodingBar

        made_of = self._made_of(video)
        if self._folder.has(name, made_of):
            return False
        bar = DecodingBar(enabled=True)
        bar.start(name)
        try:
            scores = score_file(self._detector, video, bar)
        finally:
            bar.close()
        found = events.find_events(
            scores.scores_T, self._detector.rule, times_Tx2=scores.facts.times_Tx2, video=name
        )
        self._write(video, name, made_of, scores, found)
        for fault in scores.ending.faults:
            _tell(f"warning: {video.given}: {fault}")
        if said := drift.describe(self._detector.model, {video.given: scores.shift}):
            _tell(f"warning: {said}")
        number = f"{len(found)} event{'' if len(found) == 1 else 's'}"
        _tell(f"{video.given}: {number} in {scores.facts.seconds:.1f} s -> {name}.html")
        return True

    def _made_of(self, video: VideoFile) -> str:
        """Returns the digest of all that a video's outputs depend on."""
        from generation.encode import provenance

        entry = video.annotation
        fps = entry.fps if entry else None
        named = annotations.VideoAnnotation(
            id=video.path.name, file=video.path.name, label=0, split="test", fps=fps
        )
        listed = annotations.Annotations({named.id: named}, str(video.path.parent / "videos.json"))
        classes = self._detector.classes
        content = {
            "version": outputs.VERSION,
            "video": provenance.video_digests(listed, {}, "real")[named.id],
            "detector": self._detector.identity,
            "encoder": self._detector.features.manifest.digest(),
            "rule": dataclasses.asdict(self._detector.rule),
            "classes": classes and digests.of_bytes(classes.bank_KxE.tobytes()),
            "truth": entry and [entry.label, entry.abnormal_frames, entry.num_frames],
            "clips": self._clips,
        }
        return digests.of_json(content)

    def _write(
        self, video: VideoFile, name: str, made_of: str, scores: Scores, found: Sequence[Event]
    ) -> None:
        from tools.pages import video as video_page

        folder = self._folder.begin(name)
        reader = footage.opened(video, scores.ending.faults)
        drawn = thumbnails.of_events(reader, found, scores, self._detector.features.recipe.encoder)
        named = []
        for number, (event, picture) in enumerate(zip(found, drawn, strict=True)):
            path = folder / f"{outputs.file_name(event, number)}.jpg"
            path.write_bytes(picture.jpeg)
            at = _snippet_at(scores, event)
            named.append(
                dataclasses.replace(
                    event,
                    cls=scores.classes[at] if scores.classes else None,
                    thumbnail=f"{folder.name}/{path.name}",
                )
            )
        clips = []
        if self._clips:
            clips = [folder / f"{outputs.file_name(e, n)}.mp4" for n, e in enumerate(named)]
            footage.cut(reader, named, scores, clips)
        played = footage.for_page(reader, scores, folder)
        content = self._content(video, name, scores, named, drawn) | {"made_of": made_of}
        content["clips"] = [f"{folder.name}/{path.name}" for path in clips]
        page, embedded = video_page.page(content, scores, drawn, played)
        if embedded:
            played[0].unlink()
        content["files"] = sorted(f"{folder.name}/{path.name}" for path in folder.iterdir())
        self._folder.finish(name, page, content)

    def _content(
        self,
        video: VideoFile,
        name: str,
        scores: Scores,
        found: Sequence[Event],
        drawn: Sequence[thumbnails.Thumbnail],
    ) -> dict[str, Any]:
        """Returns the content of NAME.json but for made_of, clips and files."""
        model, facts = self._detector.model, scores.facts
        chances = model.calibrated_scores({name: scores.scores_T})
        threshold = dataclasses.asdict(self._detector.threshold)
        return {
            "video": name,
            "file": video.given,
            "place": video.place,
            "detector": model.config.detector,
            "encoder": self._detector.features.manifest.encoder["id"],
            "identity": self._detector.identity,
            "threshold": threshold,
            "rule": dataclasses.asdict(self._detector.rule),
            "fps": facts.fps,
            "num_frames": facts.num_frames,
            "seconds": facts.seconds,
            "part_snippets": scores.part_snippets,
            # How far its features lie from those that the detector knows, in deviations.
            "shift": scores.shift,
            "faults": scores.ending.faults,
            "score": float(model.video_scores({name: scores.scores_T})[name]),
            "chance": None if chances is None else chances[name],
            "truth": truth_of(video, facts.num_frames, facts.fps),
            "events": [event.to_json() for event in found],
            "captions": [
                scores.captions[_snippet_at(scores, event)] if scores.captions else None
                for event in found
            ],
            "cells": [{"grid": picture.grid, "marked": picture.cells} for picture in drawn],
            "times": np.round(facts.times_Tx2, 6).tolist(),
            "scores": scores.scores_T.astype(float).tolist(),
        }


def _snippet_at(scores: Scores, event: Event) -> int:
    """Returns the snippet of an event's peak."""
    middles_T = scores.facts.times_Tx2.mean(axis=1)
    return int(np.argmin(np.abs(middles_T - event.peak_time)))


def truth_of(video: VideoFile, num_frames: int, fps: float) -> list[list[float]] | None:
    """Returns the abnormal intervals of a video in seconds; None if they aren't known.

    Raises:
      UserError: the list's entry doesn't fit the video.
    """
    entry = video.annotation
    if entry is None or (entry.label and entry.abnormal_frames is None):
        return None
    path = video.listed.path if video.listed else ""
    scale = annotations.frame_scale(entry, num_frames, fps, path)
    labels_F = annotations.frame_labels(entry, num_frames, path, scale)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], labels_F, [0]]).astype(int)))
    return [[start / fps, end / fps] for start, end in changes.reshape(-1, 2).tolist()]
