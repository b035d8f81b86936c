"""Measures of frame scores of any origin: arrays, or files by video id. No JAX."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from gvvad_jax import conventions, curves, events, ground_truth, scored
from gvvad_jax.command import UserError
from gvvad_jax.measures import Alignment, MeasureOptions, Measures
from gvvad_jax.scored import Scored
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.files import load_arrays

# Arrays of S.npz that stand beside each video's frame scores begin with these.
SNIPPET_PREFIXES = ("snippets/", "times/", "fps/")
# So do calibrated video scores; they are single numbers, which tells them from a video "video/1".
VIDEO_PREFIX = "video/"
# How scores belong to frames.
AS_GIVEN = "as given: one score for each frame"
PUBLISHED = "published: one score for each 16 frames, labels cut or padded to that"
_UNKNOWN = "these scores don't tell it: measure the run with --workdir"
_REPEAT = alignment.REFERENCE_REPEAT


def measure(
    scores: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None] | None = None,
    *,
    fps: float | Mapping[str, float] | None = None,
    groups: Mapping[str, str] | None = None,
    alarms_per_hour: float | None = None,
    options: MeasureOptions | None = None,
    other: Mapping[str, np.ndarray] | None = None,
) -> Measures:
    """Measures frame scores of any origin against frame-level ground truth.

    Args:
      scores: one score a frame [F] by video id. Videos without ground truth are left out.
      truth: 0 or 1 for each frame [F] by video id; a video with a 1 is an abnormal one.
      classes: class name of the abnormal videos by id, for `per_class`.
      fps: frames a second, of all videos or by id, for measures of events.
      groups: name of what a video shares with others (camera, scene) by id; bootstrap intervals
        draw whole groups.
      alarms_per_hour: alarms an hour of the normal videos to set the threshold of events by.
      options: what to measure beyond the defaults, e.g. MeasureOptions(bootstrap=1000).
      other: another detector's scores of the same videos, to compare with.

    Returns:
      The measures over all videos of `truth`. Those of video scores are None, because they need a
      detector's snippets; those of events are None without `fps`.

    Raises:
      UserError: a video without scores, lengths that differ, scores that aren't finite, labels
        other than 0 and 1, or no video; the message names the argument and the video.
    """
    options = options or MeasureOptions()
    given = {"scores": scores, "truth": truth} | ({} if other is None else {"other": other})
    for name, argument in given.items():
        if not isinstance(argument, Mapping):
            raise UserError(
                f"{name}: expected arrays by video id, found {type(argument).__name__}; give "
                "{id: array}"
            )
    labels = {video_id: np.asarray(labels_F) for video_id, labels_F in truth.items()}
    _require_labels(labels, "truth")
    rates = (
        dict(fps) if isinstance(fps, Mapping) else {} if fps is None else dict.fromkeys(truth, fps)
    )

    def of(name: str) -> Scored:
        arrays = {video_id: np.asarray(scores_F) for video_id, scores_F in given[name].items()}
        aligned = _align(arrays, labels, options.alignment, name, "truth")
        return dataclasses.replace(aligned, classes=classes or {}, groups=groups or {})

    test = _with_times(
        of("scores"), labels, {i: _rate(r, f"fps: video {i!r}") for i, r in rates.items()}
    )
    return measure_scored(test, options, alarms_per_hour, None if other is None else of("other"))


def measure_files(
    scores_path: str,
    truth_path: str,
    *,
    alarms_per_hour: float | None = None,
    options: MeasureOptions | None = None,
    other_path: str = "",
) -> Measures:
    """Measures S.npz (frame scores by video id) against a videos.json or a G.npz.

    Args:
      scores_path: S.npz.
      truth_path: the ground truth.
      alarms_per_hour, options: see `measure`.
      other_path: another S.npz of the same videos to compare with.

    Raises:
      UserError: as `measure` does; the message names the file and the video.
    """
    options = options or MeasureOptions()
    test = read_scored(scores_path, truth_path, options.alignment)
    other = read_scored(other_path, truth_path, options.alignment) if other_path else None
    return measure_scored(test, options, alarms_per_hour, other)


def measure_scored(
    test: Scored, options: MeasureOptions, alarms_per_hour: float | None, other: Scored | None
) -> Measures:
    """Measures what `read_scored` has read; see `measure_files`."""
    names = ("video_auc", "video_ap", "ece", "ece_uncalibrated", "threshold", "alarms_per_hour",
             "normal_hours", *scored.AT_THRESHOLD, "event_ap", "event_map")  # fmt: skip
    reasons, threshold = dict.fromkeys(names[:4], _UNKNOWN), None
    if alarms_per_hour is None:
        unasked = "no --alarms_per_hour is given to set a threshold by"
        reasons |= dict.fromkeys(("threshold", "alarms_per_hour", *scored.AT_THRESHOLD), unasked)
    elif test.snippets is None:
        raise UserError(
            "--alarms_per_hour: expected the frame rate of every video, found none of some; give "
            "fps in videos.json, or fps/ID in the scores, or score with gvvad score"
        )
    else:
        try:
            threshold = events.threshold_for(alarms_per_hour, *test.normal_footage())
        except ValueError as error:
            raise UserError(str(error)) from error
    if test.snippets is None:
        rateless = "these scores and their list have no frame rate: give fps"
        reasons |= dict.fromkeys(names[4:], rateless)
    measures = scored.measure(test, options, threshold, reasons, other)
    if threshold:
        measures["threshold_set_on"] = scored.ON_THESE
    return measures


def read_scored(scores_path: str, truth_path: str, rule: Alignment = "auto") -> Scored:
    """Reads S.npz and its ground truth, a videos.json or a G.npz, ready to be measured.

    Events are found in the snippets where S.npz has those of every video, as `gvvad score` writes
    them, and in the frames elsewhere.

    Raises:
      UserError: as `measure_files` does.
    """
    arrays = load_arrays(scores_path, "an .npz of scores by video id")
    chances = {
        name.removeprefix(VIDEO_PREFIX): float(array)
        for name, array in arrays.items()
        if name.startswith(VIDEO_PREFIX) and array.shape == ()
    }
    others = (*SNIPPET_PREFIXES, *(VIDEO_PREFIX + i for i in chances))
    scores = {i: array for i, array in arrays.items() if not i.startswith(others)}
    if not truth_path:
        raise UserError("--ground_truth: expected videos.json or an .npz, found none; name one")
    rates = {}
    if truth_path.endswith(".npz"):
        labels = load_arrays(truth_path, "an .npz of labels by video id")
        _require_labels(labels, truth_path)
        test = _align(scores, labels, rule, scores_path, truth_path)
    else:
        annotated = annotations.load(truth_path)
        if rule == "published":
            labels = _declared_labels(annotated)
        else:
            labels = ground_truth.labels_of_scores(annotated, arrays, scores_path)
        videos = annotated.videos.values()
        abnormal = {video.id for video in videos if video.label}
        test = dataclasses.replace(
            _align(scores, labels, rule, scores_path, truth_path, abnormal),
            classes={video.id: video.cls for video in videos},
            groups={video.id: video.group for video in videos if video.group},
        )
        rates = {video.id: video.fps for video in videos if video.fps}
    for i in labels:
        if (rate := arrays.get(f"fps/{i}")) is not None:
            rates[i] = _rate(rate, f"{scores_path}: fps/{i}")
    test = _with_times(test, labels, rates)
    if test.snippets is not None and all(
        f"{kind}/{i}" in arrays for i in labels for kind in ("snippets", "times")
    ):
        test = dataclasses.replace(
            test,
            snippets={i: arrays[f"snippets/{i}"] for i in labels},
            times={i: arrays[f"times/{i}"] for i in labels},
        )
        try:
            events.join_footage(test.snippets or {}, test.times or {})
        except (ValueError, TypeError) as error:
            raise UserError(f"{scores_path}: snippets/, times/: {error}; score again") from error
    if labels.keys() <= chances.keys():
        test = dataclasses.replace(test, chances={i: chances[i] for i in labels})
    return test


def _declared_labels(annotated: annotations.Annotations) -> dict[str, np.ndarray]:
    """Labels of the test videos as long as the list says they are, whatever their scores."""
    labels = {}
    for video in annotated.in_split("test"):
        if video.num_frames is None:
            raise UserError(
                f"{annotated.path}: video {video.id!r}: expected num_frames for "
                "--alignment=published, found none; add it, or take --alignment=auto"
            )
        labels[video.id] = annotations.frame_labels(video, video.num_frames, annotated.path, 1.0)
    return labels


def _rate(value: Any, where: str) -> float:
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "iuf" or not 0 < array < np.inf:
        raise UserError(
            f"{where}: expected one positive number, found {str(array.tolist())[:60]}; correct it"
        )
    return float(array)


def _with_times(
    test: Scored, labels: Mapping[str, np.ndarray], rates: Mapping[str, float]
) -> Scored:
    """Adds what measures of events need, if every video's frame rate is known."""
    if not labels.keys() <= rates.keys():
        return test
    return dataclasses.replace(
        test,
        snippets=test.scores,
        times={i: events.frame_times(len(test.scores[i]), rates[i]) for i in labels},
        intervals={
            i: [(start / rates[i], end / rates[i]) for start, end in curves.spans(labels_F)]
            for i, labels_F in labels.items()
        },
    )


def _align(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    rule: Alignment,
    scores_name: str,
    truth_name: str,
    abnormal_ids: Collection[str] | None = None,
) -> Scored:
    """Checks scores against labels and aligns them; errors name the argument or file given."""
    if not labels:
        raise UserError(
            f"{truth_name}: expected test videos, found none; correct the annotations' splits"
        )
    if rule == "time":
        raise UserError(
            "--alignment=time: expected a run (--workdir), whose snippets have times, found bare "
            "scores; take auto or published"
        )
    aligned = {}
    for video_id, labels_F in labels.items():
        if video_id not in scores:
            raise UserError(
                f"{scores_name}: expected scores of video {video_id!r}, found none; "
                "score every test video"
            )
        scores_F = scores[video_id]
        if scores_F.dtype.kind not in "biuf" or not np.isfinite(scores_F).all():
            raise UserError(
                f"{scores_name}: video {video_id!r}: expected finite scores, found others (NaN, "
                "infinity or no numbers); score it again"
            )
        if rule == "published":
            where = f"{scores_name}: video {video_id!r}"
            aligned[video_id] = _repeat(scores_F, labels_F, where)
        elif scores_F.shape != labels_F.shape:
            raise UserError(
                f"{scores_name}: video {video_id!r}: expected {len(labels_F)} frames as in "
                f"{truth_name}, found {list(scores_F.shape)}; "
                f"{conventions.explain(scores_F.size, len(labels_F)) or 'align them first'}"
            )
        else:
            aligned[video_id] = scores_F, labels_F
    if abnormal_ids is None:
        abnormal_ids = {i for i, labels_F in labels.items() if labels_F.any()}
    return Scored(
        abnormal={i: i in abnormal_ids for i in labels},
        scores={i: pair[0] for i, pair in aligned.items()},
        labels={i: pair[1] for i, pair in aligned.items()},
        alignment=PUBLISHED if rule == "published" else AS_GIVEN,
    )


def _repeat(scores: np.ndarray, labels_F: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels by the published rule, from a score a snippet or the same 16 times each."""

    def fits(rows: int) -> bool:
        return rows > 0 and alignment.fits(rows, len(labels_F), _REPEAT, _REPEAT)

    whole, rest = divmod(len(scores), _REPEAT) if scores.ndim == 1 else (0, 1)
    if not rest and fits(whole):
        return alignment.reference_align(scores, labels_F)
    if scores.ndim == 1 and fits(len(scores)):
        return alignment.reference_align(np.repeat(scores, _REPEAT), labels_F)
    raise UserError(
        f"{where}: expected a score for each {_REPEAT} of {len(labels_F)} frames, once or "
        f"{_REPEAT} times each, found {list(scores.shape)}; take --alignment=auto for one a frame"
    )


def _require_labels(labels: Mapping[str, np.ndarray], name: str) -> None:
    for video_id, labels_F in labels.items():
        if labels_F.ndim != 1 or not len(labels_F) or not np.isin(labels_F, (0, 1)).all():
            raise UserError(
                f"{name}: video {video_id!r}: expected labels 0 and 1 [frames], found shape "
                f"{list(labels_F.shape)} of {np.unique(labels_F)[:3].tolist()}; convert them"
            )
