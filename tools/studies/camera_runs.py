"""Runs of the study of cameras: detectors measured on other cameras' videos and on copies.

`cameras`: does a camera's own standardisation help, from how much footage, and is a threshold
flattered by statistics of the same footage? `compression`: what do re-encoded files cost, and does
training on copies mend it? `feedback`: what does feedback on alarms gain on other videos? `drift`:
how far do features lie from those of training? A row of an answer is one measurement, a dict of
plain values.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax import adaptation, drift, events, model_measures, scoring
from gvvad_jax.config import TrainConfig
from gvvad_jax.scoring import Model
from gvvad_jax.splits import Member
from gvvad_jax.store.files import write_json
from gvvad_jax.store.reader import Store
from tools.adapting import camera, tuning
from tools.adapting.camera import Footage
from tools.studies import cameras, runs
from tools.studies.cameras import COMPRESSED, ORIGINAL, CameraStudy

# Shares of the camera's own statistics, and numbers of normal videos that they are of.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
COUNTS = (1, 3, 1000)
# Share of normal snippets above a threshold, at which false alarms are compared.
ALARMS = 0.05
# Inverse penalties of what is learned from feedback.
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
# What detectors of the second question are trained on.
TRAINED_ON = ((ORIGINAL,), ("crf23",), (ORIGINAL, "crf23", "crf28"))


def trained(study: CameraStudy, train: TrainConfig, names: Sequence[str], seed: int) -> Model:
    """Trains on the training videos of some stores, or finds that done; returns the detector."""
    name = f"{'+'.join(names)}-{seed:02d}"
    path = study.folder / "splits" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = cameras.split(study, seed)
    write_json(path, cameras.annotated(study, names, splits).to_json())
    config = dataclasses.replace(
        train,
        store=",".join(cameras.store_of(study, each) for each in names),
        annotations=str(path),
        workdir=str(study.folder / "runs" / name),
        seed=seed,
        validation_share=0.0,
    )
    runs.finished_run(config)
    return scoring.load(config.workdir)


def members(study: CameraStudy, name: str, seed: int, split: str) -> list[Member]:
    """Returns the videos of a split of one store."""
    store, splits = Store(cameras.store_of(study, name)), cameras.split(study, seed)
    listed = cameras.annotated(study, [name], splits).in_split(split)
    return [Member(store, video) for video in listed]


def footage_of(videos: Sequence[Member]) -> Footage:
    """Returns videos as footage to fit a detector to."""
    return Footage(
        {m.video.id: m.store.visual(m.video.id) for m in videos},
        {m.video.id: m.store.times(m.video.id) for m in videos},
    )


def _measured(model: Model, test: Sequence[Member]) -> dict[str, Any]:
    measures = model_measures.measure_members(model, test)
    return {name: round(float(measures[name]), 4) for name in runs.MEASURES}  # type: ignore[literal-required]


def _above(model: Model, normal: Sequence[Member], threshold: float) -> float:
    """Share of normal videos' snippets that score above a threshold."""
    scores = np.concatenate(list(model.score_members(normal).values()))
    return round(float(np.mean(scores > threshold)), 4)


def _quantile(scores: Mapping[str, np.ndarray], share: float = ALARMS) -> float:
    return float(np.quantile(np.concatenate(list(scores.values())), 1 - share))


def cameras_rows(study: CameraStudy, train: TrainConfig) -> Iterator[dict[str, Any]]:
    """Measures detectors of the originals on other cameras, with and without their statistics."""
    targets = [(name, study, name) for name in (ORIGINAL, "crf28", *cameras.CAMERAS)]
    targets += [(name, other, ORIGINAL) for name, other in study.others().items()]
    for seed in range(study.seeds):
        model = trained(study, train, (ORIGINAL,), seed)
        known = _quantile(model.score_members(members(study, ORIGINAL, seed, "validation")))
        for target, owner, name in targets:
            test = members(owner, name, seed, "test")
            held = members(owner, name, seed, "validation")
            for count, share in _fits(len(held)):
                footage = footage_of(held[:count])
                yield {"seed": seed, "target": target, "footage": count, "share": share} | _fitted(
                    model, footage, share, test, known
                )


def _fits(videos: int) -> list[tuple[int, float]]:
    """Numbers of videos and shares of their statistics; without a share, the run's own once."""
    counts = sorted({min(count, videos) for count in COUNTS})
    return [(videos, 0.0)] + [(count, share) for count in counts for share in SHARES[1:]]


def _fitted(
    model: Model, footage: Footage, share: float, test: Sequence[Member], known: float
) -> dict[str, Any]:
    """Measures a detector with blended statistics, its threshold set in three ways.

    The thresholds let ALARMS of the snippets pass: of the footage by statistics of the same footage
    (direct), or of its other parts (cross), or of the run's own camera (known).
    """
    standard = camera.blended(camera.statistics(footage), model.standard, share)
    fitted = dataclasses.replace(model, standard=standard)
    normal = [member for member in test if not member.video.label]
    thresholds = {
        "known": known,
        "direct": _quantile(fitted.score(footage.features)),
        "cross": _quantile(camera.cross_scores(model, footage, share)),
    }
    return {
        "seconds": round(footage.seconds),
        **_measured(fitted, test),
        **{f"alarms_{name}": _above(fitted, normal, each) for name, each in thresholds.items()},
    }


def feedback_rows(study: CameraStudy, train: TrainConfig) -> Iterator[dict[str, Any]]:
    """Measures what feedback on the alarms of half of the test videos gains on the other half.

    The alarms are events above the score that a tenth of the camera's normal snippets pass, more
    than anybody would bear, so that there are some. One that touches an abnormal interval is true.
    """
    for seed in range(study.seeds):
        trained_model = trained(study, train, (ORIGINAL,), seed)
        for name in (ORIGINAL, "crf28", *cameras.CAMERAS):
            footage = footage_of(members(study, name, seed, "validation"))
            model = dataclasses.replace(trained_model, standard=camera.statistics(footage))
            seen, held = _halves(members(study, name, seed, "test"), seed)
            threshold = _quantile(model.score(footage.features), 2 * ALARMS)
            labels = _alarms(model, seen, threshold)
            if not labels:
                continue  # Where nothing scores higher than the rest, there is no alarm.
            snippets = tuning.gather(model, footage_of(seen), labels)
            before = _measured(model, held)
            for strength in STRENGTHS:
                row = {"seed": seed, "target": name, "strength": strength}
                row |= {"videos": len(labels), "snippets": len(snippets.labels_M)}
                kept, after = 0, before
                if _in_two_videos(snippets):
                    kept = int(tuning.held_out(snippets, strength)["better"])
                    correction = tuning.learn(snippets, strength)
                    step = adaptation.corrected(model.score_step, correction)
                    after = _measured(dataclasses.replace(model, score_step=step), held)
                gains = {f"gain_{m}": round(after[m] - before[m], 4) for m in before}
                yield (
                    row
                    | before
                    | gains
                    | {"kept": kept}
                    | {f"kept_{m}": kept * gain for m, gain in gains.items()}
                )


def _in_two_videos(snippets: tuning.Snippets) -> bool:
    return all(
        len(np.unique(snippets.videos_M[snippets.labels_M == label])) > 1 for label in (0, 1)
    )


def _halves(test: Sequence[Member], seed: int) -> tuple[list[Member], list[Member]]:
    """Divides videos at random, each label in halves."""
    order = np.random.default_rng([seed, 13]).permutation(len(test))
    halves: tuple[list[Member], list[Member]] = ([], [])
    for label in (0, 1):
        for number, member in enumerate(
            m for m in (test[i] for i in order) if m.video.label == label
        ):
            halves[number % 2].append(member)
    return halves


def _alarms(model: Model, test: Sequence[Member], threshold: float) -> dict[str, np.ndarray]:
    """Labels the snippets of each alarm by the truth [T]; -1 elsewhere; videos with alarms only."""
    found = {}
    for i, scores_T in model.score_members(test).items():
        member = next(m for m in test if m.video.id == i)
        times_Tx2 = member.store.times(i)
        labels_T = np.full(len(scores_T), -1)
        rule = events.Rule(threshold=threshold, min_seconds=0.0)
        for event in events.find_events(scores_T, rule, times_Tx2=times_Tx2):
            inside_T = (times_Tx2[:, 0] >= event.start) & (times_Tx2[:, 1] <= event.end)
            spans = [np.array(each) / member.row.fps for each in member.video.abnormal_frames or ()]
            labels_T[inside_T] = any(a < event.end and b > event.start for a, b in spans)
        if (labels_T >= 0).any():
            found[i] = labels_T
    return found


def compression_rows(study: CameraStudy, train: TrainConfig) -> Iterator[dict[str, Any]]:
    """Measures detectors of originals, of copies and of both on originals and on copies.

    False alarms are the share of normal snippets above the threshold that ALARMS of the normal test
    snippets of the files that a detector was trained on first are above.
    """
    for seed in range(study.seeds):
        for names in TRAINED_ON:
            model = trained(study, train, names, seed)
            base = [m for m in members(study, names[0], seed, "test") if not m.video.label]
            threshold = _quantile(model.score_members(base))
            for name in (ORIGINAL, *COMPRESSED):
                test = members(study, name, seed, "test")
                normal = [m for m in test if not m.video.label]
                yield {
                    "seed": seed,
                    "trained_on": "+".join(names),
                    "target": name,
                    **_measured(model, test),
                    "alarms": _above(model, normal, threshold),
                }


def drift_rows(study: CameraStudy, train: TrainConfig) -> Iterator[dict[str, Any]]:
    """Measures the shift of test videos, by label, from features of training and of a camera.

    The camera is the originals': other targets are what it may have become since it was fitted.
    """
    targets = [(name, study, name) for name in (ORIGINAL, *COMPRESSED, *cameras.CAMERAS)]
    targets += [(name, other, ORIGINAL) for name, other in study.others().items()]
    for seed in range(study.seeds):
        model = trained(study, train, (ORIGINAL,), seed)
        own = camera.statistics(footage_of(members(study, ORIGINAL, seed, "validation")))
        for target, owner, name in targets:
            test = members(owner, name, seed, "test")
            for known, seen in (("training", None), ("camera", own)):
                compared = dataclasses.replace(model, seen=seen)
                for label in (0, 1):
                    shifts = [
                        drift.shift(compared, m.store.visual(m.video.id))
                        for m in test
                        if m.video.label == label
                    ]
                    row = {"seed": seed, "target": target, "known": known, "label": label}
                    yield row | _spread(compared, [s for s in shifts if s is not None])


def _spread(model: Model, shifts: Sequence[float]) -> dict[str, float]:
    return {
        "number": len(shifts),
        "median": round(float(np.median(shifts)), 3),
        "highest": round(max(shifts), 3),
        "lowest": round(min(shifts), 3),
        "beyond": round(float(np.mean([s > drift.bound_of(model) for s in shifts])), 4),
    }
