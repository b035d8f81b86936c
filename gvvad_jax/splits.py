"""Which videos train, validate and test, and how their features are standardised."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import annotations
from gvvad_jax.store.files import read_lines
from gvvad_jax.store.format import Row
from gvvad_jax.store.reader import Store, require_agreement

# With fewer videos of a label than this there is no validation split.
MIN_FOR_VALIDATION = 5


@dataclasses.dataclass(frozen=True)
class Member:
    """One video of a run: its store and what is known of it."""

    store: Store
    video: annotations.VideoAnnotation

    @property
    def row(self) -> Row:
        return self.store.rows[self.video.id]


@dataclasses.dataclass(frozen=True)
class Splits:
    """The videos of a run by use.

    Attributes:
      train: real and synthetic training videos.
      held_out: real videos of the training list that lambda alone learns from (mode `meta`).
      validation: held out of the training list, video labels only; may be empty.
      test: test videos; may be empty.
      missing: ids of test videos that couldn't be encoded; see `missing`.
    """

    train: Sequence[Member]
    held_out: Sequence[Member]
    validation: Sequence[Member]
    test: Sequence[Member]
    missing: Sequence[str] = ()

    def to_json(self) -> dict[str, list[str]]:
        uses = {name: getattr(self, name) for name in ("train", "held_out", "validation", "test")}
        return {name: sorted(member.video.id for member in use) for name, use in uses.items()}


def read_decisions(path: str) -> dict[str, bool]:
    """The filter's decisions: whether to keep, by video id."""

    def parse(entry: Any) -> tuple[str, bool]:
        if not isinstance(entry["id"], str) or not isinstance(entry["keep"], bool):
            raise TypeError("keep is true or false")
        return entry["id"], entry["keep"]

    remedy = "make them with python -m generation.filter"
    return dict(read_lines(path, parse, 'a decision {"id", "keep"}', remedy))


def open_splits(config: TrainConfig) -> tuple[Splits, list[Store]]:
    """Opens a run's stores and sorts their videos by use.

    Returns:
      (splits, stores); the stores agree with each other.

    Raises:
      UserError: stores that differ or share a video, listed videos that aren't there, real videos
        among the synthetic ones, no training video of a label, text asked for and absent, too few
        videos to hold any out for lambda.
    """
    if not all(paths := config.store.split(",")):
        raise UserError(
            "--store: expected the feature store of the real videos, or several separated by "
            f"commas, found {config.store or 'none'}; name each"
        )
    if config.synthetic_keep and not config.synthetic_store:
        raise UserError(
            "--synthetic_keep: expected --synthetic_store with it, found none; name the store that "
            "was decided on, or leave it out"
        )
    real = [Store(path) for path in paths]
    synthetic = [Store(config.synthetic_store)] if config.synthetic_store else []
    require_agreement(real + synthetic)
    if config.uses_text and real[0].manifest.text is None:
        raise UserError(
            f"{real[0].path}: expected text rows for --feature_group={config.feature_group}, found "
            "none; encode with a captioner or use --feature_group=visual"
        )
    override = annotations.load(config.annotations) if config.annotations else None
    every = [m for opened in real for m in members_of(opened, override)]
    _require_one_each(every)
    # Annotations may list more than was encoded; what is measured must be there.
    gone = {s: report_missing(real, override, s, s == "test") for s in annotations.SPLITS}
    by_split = {s: [m for m in every if m.video.split == s] for s in annotations.SPLITS}
    train, validation = by_split["train"], by_split["validation"]
    if not validation and config.validation_share and _fewest(train) >= MIN_FOR_VALIDATION:
        train, validation = _split_off(train, config.validation_share, (config.seed, 2))
    held_out: list[Member] = []
    if config.lambda_mode == "meta":
        if _fewest(train) < 2:
            raise UserError(
                f"{config.store}: expected at least two real training videos of each label for "
                "--lambda_mode=meta, found fewer; use another mode"
            )
        train, held_out = _split_off(train, config.meta_share, (config.seed, 3))
    if config.real_share < 1.0:
        _, train = _split_off(train, config.real_share, (config.seed, 4))
    train = train + _kept(synthetic, config)
    splits = Splits(train, held_out, validation, by_split["test"], gone["test"])
    for label, name in enumerate(("normal", "abnormal")):
        if not any(m.video.label == label for m in splits.train):
            raise UserError(
                f"{config.store}: expected at least one {name} training video, found none; "
                "check split and label in videos.json"
            )
    return splits, real + synthetic


def members_of(opened: Store, override: annotations.Annotations | None) -> list[Member]:
    videos = (override or opened.videos).videos
    return [Member(opened, videos[video_id]) for video_id in opened.rows if video_id in videos]


def report_missing(
    stores: Sequence[Store],
    override: annotations.Annotations | None,
    split: str,
    required: bool = True,
) -> list[str]:
    """Which videos of a split couldn't be encoded; told on standard error.

    Args:
      stores: that the split's videos are in.
      override: lists the videos instead of the stores' own lists.
      split: train, validation or test.
      required: whether a video of `override` that no store knows is refused, or told.

    Returns:
      Ids of the videos in quarantine.

    Raises:
      UserError: a video that is neither encoded nor in quarantine.
    """
    path = override.path if override else ",".join(str(opened.path) for opened in stores)
    lists = [override] if override else [opened.videos for opened in stores]
    listed = [video for annotated in lists for video in annotated.in_split(split)]
    absent = [v.id for v in listed if not any(v.id in opened.rows for opened in stores)]
    quarantined = [i for i in absent if any(i in opened.quarantined for opened in stores)]
    unknown = [i for i in absent if i not in quarantined]
    if unknown and (required or not override):
        raise UserError(
            f"{path}: expected every {split} video in the store, found {unknown[0]!r} and "
            f"{len(unknown) - 1} more absent; encode them, or leave them out of the annotations"
        )
    for ids, why in ((quarantined, "couldn't be encoded"), (unknown, "are in no store")):
        if ids:
            print(f"{path}: {len(ids)} {split} videos {why}, {ids[0]!r} first", file=sys.stderr)
    return quarantined


def _require_one_each(every: Sequence[Member]) -> None:
    of: dict[str, Store] = {}
    for member in every:
        other = of.setdefault(member.video.id, member.store)
        if other is not member.store:
            raise UserError(
                f"--store: expected each video in one store, found {member.video.id!r} in "
                f"{other.path} and in {member.store.path}; name each store once, or encode one of "
                "them with other ids"
            )


def _kept(synthetic: Sequence[Store], config: TrainConfig) -> list[Member]:
    """The generated training videos; those of other splits were made to measure on."""
    every = [m for s in synthetic for m in members_of(s, None) if m.video.split == "train"]
    for opened in synthetic:
        real = [row.id for row in opened.rows.values() if row.source != "synthetic"]
        if real:
            raise UserError(
                f"{opened.path}: expected generated videos alone in --synthetic_store, found the "
                f"real {real[0]!r} and {len(real) - 1} more; encode generated ones with "
                "--source=synthetic, and give real ones as --store"
            )
        if not every:
            raise UserError(
                f"{opened.path}: expected generated videos of split train, found none; make them "
                "with generation.videos --split=train"
            )
        report_missing([opened], None, "train")
    if not config.synthetic_keep:
        return every
    decisions = read_decisions(config.synthetic_keep)
    unjudged = [m.video.id for m in every if m.video.id not in decisions]
    if unjudged:
        raise UserError(
            f"{config.synthetic_keep}: expected a decision on every synthetic video, found none on "
            f"{unjudged[0]!r} and {len(unjudged) - 1} more; run the filter on this store again"
        )
    return [m for m in every if decisions[m.video.id]]


def _fewest(videos: Sequence[Member]) -> int:
    """How many videos the rarer label has."""
    return min(sum(m.video.label == label for m in videos) for label in (0, 1))


def _split_off(
    videos: Sequence[Member], share: float, key: tuple[int, int]
) -> tuple[list[Member], list[Member]]:
    """(the rest, a share): the share is drawn of each label, at least one, seeded by the key."""
    drawn: set[str] = set()
    for label in (0, 1):
        ids = sorted(m.video.id for m in videos if m.video.label == label)
        count = min(len(ids), max(1, round(share * len(ids))))
        rng = np.random.default_rng([key[0], label, *key[1:]])
        drawn.update(rng.choice(ids, count, replace=False).tolist() if ids else ())
    return (
        [m for m in videos if m.video.id not in drawn],
        [m for m in videos if m.video.id in drawn],
    )


@dataclasses.dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of visual features over the real training videos.

    Attributes:
      mean_D, std_D: float32; None for both leaves features as they are.
    """

    mean_D: np.ndarray | None = None
    std_D: np.ndarray | None = None

    def apply(self, feat_xD: np.ndarray) -> np.ndarray:
        """Features [..., D] as float32, standardised where statistics are set."""
        if self.mean_D is None:
            return np.asarray(feat_xD, np.float32)
        return (np.asarray(feat_xD, np.float32) - self.mean_D) / self.std_D

    def to_json(self) -> dict[str, Any] | None:
        if self.mean_D is None:
            return None
        return {"mean": self.mean_D.tolist(), "std": self.std_D.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> "Standardisation":
        if content is None:
            return cls()
        return cls(np.float32(content["mean"]), np.float32(content["std"]))


def standardisation(training: Sequence[Member], config: TrainConfig) -> Standardisation:
    """Training statistics, from the real videos so that arms with and without synthetic share them.

    Without a real training video the synthetic ones serve. `auto` standardises where the encoder
    says its features need it.
    """
    wanted = training[0].store.manifest.encoder.get("standardise", False)
    if config.standardise == "no" or (config.standardise == "auto" and not wanted):
        return Standardisation()
    real = [m for m in training if m.row.source == "real"] or training
    count, total_D, squares_D = 0, 0.0, 0.0
    for member in real:
        rows_MxD = np.asarray(member.store.visual(member.video.id), np.float64)
        rows_MxD = rows_MxD.reshape(-1, rows_MxD.shape[-1])
        count += len(rows_MxD)
        total_D = total_D + rows_MxD.sum(axis=0)
        squares_D = squares_D + np.square(rows_MxD).sum(axis=0)
    mean_D = total_D / count
    std_D = np.sqrt(np.maximum(squares_D / count - np.square(mean_D), 0.0))
    # A feature that never moved in training says nothing; dividing by ~0 would make it shout.
    std_D = np.where(std_D > 1e-6 * np.maximum(np.abs(mean_D), 1.0), std_D, 1.0)
    return Standardisation(np.float32(mean_D), np.float32(std_D))
