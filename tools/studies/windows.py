"""Runs of the study of windows: what a score loses that looks at the last snippets alone.

An ordinary run is measured on whole videos, and as snippets arrive by windows of several lengths.
Beside it runs of `--causal_window` are trained, one a length, whose scores are the same either way.
A row of the answer is one measurement, a dict of plain values.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gvvad_jax import model_measures, scoring
from gvvad_jax.command import UserError, option
from gvvad_jax.config import DETECTORS, TrainConfig
from gvvad_jax.scoring import Model
from gvvad_jax.splits import Member
from gvvad_jax.store.files import write_json
from gvvad_jax.store.reader import Store
from gvvad_jax.streaming import ScoreStream
from tools.studies import cameras, runs
from tools.studies.cameras import ORIGINAL, CameraStudy

# How a detector is measured.
WHOLE, SLIDING, CAUSAL = "whole", "sliding", "causal"
# What identifies a row, all as text.
KEYS = ("footage", "detector", "kind", "window", "seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowStudy(CameraStudy):
    """The study of windows; each field is a flag."""

    windows: str = option("8,16,32,64", "Lengths of windows in snippets, separated by commas.")
    detectors: str = option("rtfm,ur_dmu", "Detectors to train, separated by commas.")

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [name for name in self.detectors.split(",") if name not in DETECTORS]
        if wrong or not all(w.isdecimal() and int(w) for w in self.windows.split(",")):
            raise UserError(
                f"--windows, --detectors: expected numbers of snippets, and some of "
                f"{', '.join(DETECTORS)}, found {self.windows!r} and {self.detectors!r}; correct "
                "them"
            )

    @property
    def lengths(self) -> list[int]:
        return [int(window) for window in self.windows.split(",")]


@dataclasses.dataclass(frozen=True)
class SlidingModel(Model):
    """A detector that scores a store's videos as a stream does, by the last `window` snippets."""

    window: int = 0

    def score_members(self, members: Sequence[Member]) -> dict[str, np.ndarray]:
        """Snippet scores by video id, each pushed after the other."""
        scores = {}
        stream = ScoreStream(self, self.window)
        for member in members:
            video_id = member.video.id
            visual, text = member.store.visual(video_id), member.store.text(video_id)
            stream.reset()
            scores[video_id] = np.array(
                [
                    stream.push(visual_NxD, None if text is None else text[min(t, len(text) - 1)])
                    for t, visual_NxD in enumerate(visual)
                ],
                np.float32,
            )
        return scores


def rows(
    study: WindowStudy, train: TrainConfig, held: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Trains and measures; yields each row that isn't held yet.

    Args:
      study: the study.
      train: flags of training; data, folder, seed, detector and window are set for each run.
      held: rows of the table, with the values of KEYS as text.
    """
    known = {tuple(str(row[key]) for key in KEYS) for row in held}
    for seed in range(study.seeds):
        splits = cameras.split(study, seed)
        path = study.folder / "splits" / f"{ORIGINAL}-{seed:02d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        listed = cameras.annotated(study, [ORIGINAL], splits)
        # Nothing is held out: what a camera study fits to tests here.
        videos = {i: _without_validation(video) for i, video in listed.videos.items()}
        listed = dataclasses.replace(listed, videos=videos)
        write_json(path, listed.to_json())
        store = Store(cameras.store_of(study, ORIGINAL))
        test = [Member(store, video) for video in listed.in_split("test")]
        for detector in study.detectors.split(","):
            config = dataclasses.replace(
                train, detector=detector, store=str(store.path), annotations=str(path), seed=seed,
                validation_share=0.0, feature_group="visual",
            )  # fmt: skip
            for kind, window in _measurements(study):
                row = dict(zip(KEYS, (study.footage, detector, kind, window, seed), strict=True))
                if tuple(str(row[key]) for key in KEYS) not in known:
                    yield row | _measured(study, config, kind, window, test)


def _without_validation(video: Any) -> Any:
    return dataclasses.replace(video, split="test") if video.split == "validation" else video


def _measurements(study: WindowStudy) -> list[tuple[str, int]]:
    each = [(kind, window) for kind in (SLIDING, CAUSAL) for window in study.lengths]
    return [(WHOLE, 0), *each]


def _measured(
    study: WindowStudy, config: TrainConfig, kind: str, window: int, test: Sequence[Member]
) -> dict[str, Any]:
    causal = window if kind == CAUSAL else 0
    name = f"{config.detector}-{causal}-{config.seed:02d}"
    config = dataclasses.replace(
        config, causal_window=causal, workdir=str(study.folder / "runs" / name)
    )
    runs.finished_run(config)
    model = scoring.load(config.workdir)
    if kind == SLIDING:
        fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(Model)}
        model = SlidingModel(**fields, window=window)
    measures = model_measures.measure_members(model, test)
    return {name: round(float(measures[name]), 4) for name in runs.MEASURES}  # type: ignore[literal-required]
