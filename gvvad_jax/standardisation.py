"""Standardises a run's features: by which videos' mean and deviation."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import Member
from gvvad_jax.store.files import Json


@dataclasses.dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of visual features over the real training videos.

    Attributes:
      mean_D: float32 means; None leaves features as they are.
      std_D: float32 standard deviations, none of them 0; None where mean_D is None.
    """

    mean_D: np.ndarray | None = None
    std_D: np.ndarray | None = None

    @classmethod
    def from_moments(cls, mean_D: np.ndarray, squares_D: np.ndarray) -> "Standardisation":
        """Makes statistics of the means of features and of their squares."""
        std_D = np.sqrt(np.maximum(squares_D - np.square(mean_D), 0.0))
        # Every threshold is relative, so that features in another unit are standardised to the
        # same.
        moving_D = std_D > 1e-6 * np.abs(mean_D)
        usual = np.median(std_D[moving_D]) if moving_D.any() else 1.0
        # A feature that is constant in training gets the usual deviation: dividing by its own,
        # which is nearly 0, would enlarge noise.
        std_D = np.where(moving_D & (std_D > 1e-6 * usual), std_D, usual)
        return cls(mean_D.astype(np.float32), std_D.astype(np.float32))

    def apply(self, feat_xD: np.ndarray) -> np.ndarray:
        """Returns features [..., D] as float32, standardised where statistics are set."""
        if self.mean_D is None or self.std_D is None:
            return np.asarray(feat_xD, np.float32)
        return (np.asarray(feat_xD, np.float32) - self.mean_D) / self.std_D

    def to_json(self) -> dict[str, list[float]] | None:
        """Returns {"mean", "std"}, or None where no statistics are set."""
        if self.mean_D is None or self.std_D is None:
            return None
        return {"mean": self.mean_D.tolist(), "std": self.std_D.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Json] | None) -> "Standardisation":
        """Reads back what `to_json` returned."""
        if content is None:
            return cls()
        return cls(np.asarray(content["mean"], np.float32), np.asarray(content["std"], np.float32))


@dataclasses.dataclass(frozen=True)
class Standards:
    """Which statistics standardise which training videos.

    Attributes:
      real: of real videos, and of all where generated ones have none of their own; scoring takes
        these.
      generated: of the generated videos of a store, by the store's path.
      text: what gives a store's generated text rows the real ones' mean and deviation, by the
        store's path; real text rows stay as they are stored, in training and in scoring.
    """

    real: Standardisation = dataclasses.field(default_factory=Standardisation)
    generated: Mapping[pathlib.Path, Standardisation] = dataclasses.field(default_factory=dict)
    text: Mapping[pathlib.Path, Standardisation] = dataclasses.field(default_factory=dict)

    def of(self, member: Member) -> Standardisation:
        """Returns the statistics that standardise a video."""
        return self.generated.get(member.store.path, self.real)

    def text_of(self, member: Member) -> Standardisation:
        """Returns what the text stream's input of a video is standardised by."""
        return self.text.get(member.store.path, Standardisation())


def standardises(training: Sequence[Member], config: TrainConfig) -> bool:
    """Returns whether a run standardises its visual features."""
    wanted = training[0].store.manifest.encoder.get("standardise", False)
    return config.standardise == "yes" or (config.standardise == "auto" and bool(wanted))


def standards(training: Sequence[Member], config: TrainConfig) -> Standards:
    """Computes the statistics that standardise a run's features.

    Those of visual features come from the real training videos, so that runs with and without
    generated videos share them; without a real one, they come from all. `auto` standardises where
    the encoder says that its features need it. By domain, each label counts half wherever a domain
    has both, because domains differ in how many of their videos are abnormal; without generated
    videos there is one domain, and nothing differs from `real`. Text is never standardised but by
    domain, and then only the generated videos'.

    Args:
      training: the training videos.
      config: the run's settings.
    """
    visual = standardises(training, config)
    real = [m for m in training if m.row.source == "real"]
    generated: dict[pathlib.Path, list[Member]] = {}
    for member in training:
        if member.row.source != "real":
            generated.setdefault(member.store.path, []).append(member)
    if config.standardise_by == "real" or not real or not generated:
        return Standards(_statistics([real or training]) if visual else Standardisation())
    stores = {path: _by_label(members) for path, members in generated.items()}
    text = {}
    if config.uses_text and stores:
        goal = _statistics(_by_label(real), _text)
        text = {path: _to(goal, _statistics(labels, _text)) for path, labels in stores.items()}
    if not visual:
        print(
            f"--standardise_by=domain has no effect{' on visual features' if text else ''}, "
            "because they aren't standardised: give --standardise=yes",
            file=sys.stderr,
        )
        return Standards(text=text)
    return Standards(
        _statistics(_by_label(real)),
        {path: _statistics(labels) for path, labels in stores.items()},
        text,
    )


def _to(goal: Standardisation, own: Standardisation) -> Standardisation:
    """Returns what gives features of mean and deviation `own` those of `goal`."""
    assert goal.mean_D is not None and goal.std_D is not None
    assert own.mean_D is not None and own.std_D is not None
    ratio_D = own.std_D / goal.std_D
    return Standardisation(own.mean_D - goal.mean_D * ratio_D, ratio_D)


def _visual(member: Member) -> np.ndarray:
    return np.asarray(member.store.visual(member.video.id), np.float64)


def _text(member: Member) -> np.ndarray:
    return np.asarray(member.store.text(member.video.id), np.float64)


def _by_label(members: Sequence[Member]) -> list[list[Member]]:
    labels = sorted({member.video.label for member in members})
    return [[m for m in members if m.video.label == label] for label in labels]


def _statistics(
    groups: Sequence[Sequence[Member]], read: Callable[[Member], np.ndarray] = _visual
) -> Standardisation:
    """Computes mean and deviation of videos' features; every group of videos counts the same."""
    moments_2xD = np.zeros((2, 1))
    for members in groups:
        count, totals_2xD = 0, np.zeros((2, 1))
        for member in members:
            rows_MxD = read(member)
            rows_MxD = rows_MxD.reshape(-1, rows_MxD.shape[-1])
            count += len(rows_MxD)
            sums_2xD = np.stack([rows_MxD.sum(axis=0), np.square(rows_MxD).sum(axis=0)])
            totals_2xD = totals_2xD + sums_2xD
        moments_2xD = moments_2xD + totals_2xD / count
    return Standardisation.from_moments(*moments_2xD / len(groups))
