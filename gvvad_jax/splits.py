"""Splits a run's videos into training, validation and test."""

import collections
import dataclasses
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import annotations
from gvvad_jax.store.files import Json, read_lines
from gvvad_jax.store.format import Row
from gvvad_jax.store.reader import Store, require_agreement

# With fewer videos of a label than this there is no validation split.
MIN_FOR_VALIDATION = 5


@dataclasses.dataclass(frozen=True)
class Member:
    """One video of a run.

    Attributes:
      store: the store that holds its features.
      video: its annotation.
    """

    store: Store
    video: annotations.VideoAnnotation

    @property
    def row(self) -> Row:
        """The video's line in the store."""
        return self.store.rows[self.video.id]


@dataclasses.dataclass(frozen=True)
class Splits:
    """The videos of a run by use.

    Attributes:
      train: real and synthetic training videos.
      held_out: real videos of the training list that only lambda learns from (mode `meta`).
      validation: videos kept out of the training list, with video labels only; may be empty.
      test: test videos; may be empty.
      missing: ids of test videos that couldn't be encoded.
      reasons: why there is no validation or no test video, and what the generated videos lack, by
        "validation", "test" and "synthetic".
    """

    train: Sequence[Member]
    held_out: Sequence[Member]
    validation: Sequence[Member]
    test: Sequence[Member]
    missing: Sequence[str] = ()
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, list[str]]:
        """Returns the sorted ids of the videos by use."""
        uses = {name: getattr(self, name) for name in ("train", "held_out", "validation", "test")}
        return {name: sorted(member.video.id for member in use) for name, use in uses.items()}


def read_decisions(path: str) -> dict[str, bool]:
    """Reads the filter's decisions: whether to keep a video, by its id.

    Raises:
      UserError: the file is missing, a line is not a decision, or a video is decided twice.
    """

    def parse(entry: Json) -> tuple[str, bool]:
        if not isinstance(entry["id"], str) or not isinstance(entry["keep"], bool):
            raise TypeError("id must be a string, keep true or false")
        return entry["id"], entry["keep"]

    remedy = "write the file with gvvad filter"
    decisions: dict[str, bool] = {}
    lines: dict[str, int] = {}
    entries = read_lines(path, parse, 'a decision {"id", "keep"}', remedy)
    for number, (video_id, keep) in enumerate(entries, start=1):
        if lines.setdefault(video_id, number) != number:
            raise UserError(
                f"{path}: expected one decision on each video, found {video_id!r} decided in line "
                f"{lines[video_id]} and in line {number}; remove one, or run the filter again"
            )
        decisions[video_id] = keep
    return decisions


def open_splits(config: TrainConfig) -> tuple[Splits, list[Store]]:
    """Opens a run's stores and sorts their videos by use.

    Returns:
      (splits, stores); the stores agree with each other.

    Raises:
      UserError: the stores differ or share a video; a listed video is missing; the synthetic store
        has real videos, or another one generated videos; training and test share rows; a label has
        no training video; the detector needs text and the store has none; too few videos are left
        to hold any out for lambda.
    """
    real, synthetic, override = _open(config)
    every = [m for opened in real for m in members_of(opened, override)]
    _require_source(real, "real")
    _require_source(synthetic, "synthetic")
    _require_one_each([*every, *(m for s in synthetic for m in members_of(s, None))])
    # Annotations may list more videos than were encoded, but every test video must be there.
    missing = {s: report_missing(real, override, s, s == "test") for s in annotations.SPLITS}
    by_split = {s: [m for m in every if m.video.split == s] for s in annotations.SPLITS}
    reasons: dict[str, str] = {}
    train, validation = _with_validation(by_split["train"], by_split["validation"], config, reasons)
    if not by_split["test"]:
        reasons["test"] = (
            f"no test video: none of {len(missing['test'])} could be encoded"
            if missing["test"]
            else "no test video: videos.json lists none"
        )
    held_out: list[Member] = []
    if config.lambda_mode == "meta":
        train, held_out = _hold_out(train, config)
    if config.real_share < 1.0:
        _, train = _split_off(train, config.real_share, (config.seed, 4))
    kept_out = [*held_out, *validation, *by_split["test"]]
    generated = _synthetic(synthetic)
    kept = _kept(generated, config.synthetic_keep)
    used = _of_other_groups(kept, kept_out, train)
    if why := _lacking(generated, kept, used):
        reasons["synthetic"] = why
    train = train + used
    _report_divided_groups(train, kept_out)
    splits = Splits(train, held_out, validation, by_split["test"], missing["test"], reasons)
    for label, name in enumerate(("normal", "abnormal")):
        if not any(m.video.label == label for m in splits.train):
            raise UserError(
                f"{config.store}: expected at least one {name} training video, found none; "
                "check split and label in videos.json"
            )
    _check_shared_rows(splits, config)
    return splits, real + synthetic


def _open(
    config: TrainConfig,
) -> tuple[list[Store], list[Store], annotations.Annotations | None]:
    """Opens a run's real and synthetic stores, which agree, and the annotations that override."""
    if not all(paths := config.store.split(",")):
        raise UserError(
            "--store: expected one or more feature stores of real videos, separated by commas, "
            f"found {config.store or 'none'}; name each"
        )
    if config.synthetic_keep and not config.synthetic_store:
        raise UserError(
            "--synthetic_keep: expected --synthetic_store with it, found none; name the store that "
            "the decisions are about, or leave --synthetic_keep out"
        )
    generated = config.synthetic_store.split(",") if config.synthetic_store else []
    if not all(generated):
        raise UserError(
            "--synthetic_store: expected feature stores separated by commas, found "
            f"{config.synthetic_store!r}; name each"
        )
    real, synthetic = (
        [Store(path, verify_rows=config.verify_rows) for path in each]
        for each in (paths, generated)
    )
    require_agreement(real + synthetic)
    if config.uses_text and real[0].manifest.text is None:
        raise UserError(
            f"{real[0].path}: expected text rows for --feature_group={config.feature_group}, found "
            "none; encode with a captioner, use --feature_group=visual, or take a --detector that "
            "needs no text, such as rtfm"
        )
    override = annotations.load(config.annotations) if config.annotations else None
    return real, synthetic, override


def members_of(opened: Store, override: annotations.Annotations | None) -> list[Member]:
    """Lists the videos of a store; those that `override`, or else its own videos.json, names."""
    videos = (override or opened.videos).videos
    return [Member(opened, videos[video_id]) for video_id in opened.rows if video_id in videos]


def report_missing(
    stores: Sequence[Store],
    override: annotations.Annotations | None,
    split: str,
    required: bool = True,
) -> list[str]:
    """Finds the videos of a split that couldn't be encoded, and reports them on standard error.

    Args:
      stores: the stores of the split's videos.
      override: annotations that list the videos instead of the stores' own lists; None for those.
      split: train, validation or test.
      required: whether to refuse a video of `override` that no store knows, or only to report it.

    Returns:
      Ids of the videos in quarantine: those whose encoding failed.

    Raises:
      UserError: a video is neither encoded nor in quarantine.
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
            f"{len(unknown) - 1} more missing; encode them, or remove them from the annotations"
        )
    for ids, why in ((quarantined, "couldn't be encoded"), (unknown, "are in no store")):
        if ids:
            print(f"{path}: {len(ids)} {split} videos {why}, {ids[0]!r} first", file=sys.stderr)
    return quarantined


def _require_source(stores: Sequence[Store], source: str) -> None:
    """Raises UserError for a store with videos of another source, real or synthetic."""
    for opened in stores:
        others = [row.id for row in opened.rows.values() if row.source != source]
        if others and source == "real":
            raise UserError(
                f"{opened.path}: expected only real videos in --store, found the generated "
                f"{others[0]!r} and {len(others) - 1} more; give generated ones as "
                "--synthetic_store, and encode real ones with --source=real"
            )
        if others:
            raise UserError(
                f"{opened.path}: expected only generated videos in --synthetic_store, found the "
                f"real {others[0]!r} and {len(others) - 1} more; encode generated videos with "
                "--source=synthetic, and give real ones as --store"
            )


def _require_one_each(every: Sequence[Member]) -> None:
    """Raises UserError for a video that is in two stores."""
    stores: dict[str, Store] = {}
    for member in every:
        other = stores.setdefault(member.video.id, member.store)
        if other is not member.store:
            raise UserError(
                "--store, --synthetic_store: expected each video in one store, found "
                f"{member.video.id!r} in {other.path} and in {member.store.path}; name each store "
                "once, or encode one of the two videos with another id"
            )


def _check_shared_rows(splits: Splits, config: TrainConfig) -> None:
    """Refuses test videos with the rows of a training video, and reports shared validation videos.

    Videos whose rows don't vary, such as black ones, don't count.

    Raises:
      UserError: a test video has the rows of another one, without --allow_shared_rows.
    """
    trained = [*splits.train, *splits.held_out]
    pairs = _shared_rows([*trained, *splits.validation], splits.test)
    if pairs:
        (seen, tested), more = pairs[0], len(pairs) - 1
        shared = (
            f"found the same rows in {_named(seen)} and in {_named(tested)}, and in {more} more "
            "test videos"
        )
        if not config.allow_shared_rows:
            raise UserError(
                f"{tested.store.path}: expected no video both in training (or validation) and in "
                f"test, {shared}; remove one of each two from videos.json, or give "
                "--allow_shared_rows"
            )
        print(f"--allow_shared_rows: {shared}: they test what was seen", file=sys.stderr)
    if pairs := _shared_rows(trained, splits.validation):
        seen, validating = pairs[0]
        print(
            f"{len(pairs)} validation videos have the rows of training videos, first "
            f"{_named(validating)} those of {_named(seen)}: they choose the best checkpoint by "
            "what was trained on",
            file=sys.stderr,
        )


def _named(member: Member) -> str:
    return f"{member.video.id!r} of {member.store.path}"


def _shared_rows(left: Sequence[Member], right: Sequence[Member]) -> list[tuple[Member, Member]]:
    """Lists the videos of `right` whose rows, which vary, are those of a video of `left`."""
    by_rows = {m.row.sha256: m for m in left if m.row.sha256}
    pairs = [(by_rows[m.row.sha256], m) for m in right if m.row.sha256 in by_rows]
    return [pair for pair in pairs if _varies(pair[1])]


def _varies(member: Member) -> bool:
    visual_TxNxD = member.store.visual(member.video.id)
    rows_RxD = visual_TxNxD.reshape(-1, visual_TxNxD.shape[-1])
    varies = bool((rows_RxD != rows_RxD[0]).any())
    member.store.release()
    return varies


def _with_validation(
    train: list[Member], validation: list[Member], config: TrainConfig, reasons: dict[str, str]
) -> tuple[list[Member], list[Member]]:
    """Splits validation videos off the training videos if there are none, or adds why not."""
    if validation:
        return train, validation
    if why := _no_split(train, config):
        reasons["validation"] = why
        return train, validation
    train, validation = _split_off_groups(train, config.validation_share, (config.seed, 2))
    if not validation:
        reasons["validation"] = (
            "no validation video: each group has all real training videos of a label"
        )
    return train, validation


def _hold_out(train: list[Member], config: TrainConfig) -> tuple[list[Member], list[Member]]:
    """Splits off the videos that lambda alone learns from; UserError if too few are left."""
    if _fewest(train) < 2:
        raise UserError(
            f"{config.store}: expected at least two real training videos of each label for "
            "--lambda_mode=meta, found fewer; use another mode"
        )
    train, held_out = _split_off_groups(train, config.meta_share, (config.seed, 3))
    if {m.video.label for m in held_out} != {0, 1}:
        raise UserError(
            f"{config.store}: expected groups that can be held out for --lambda_mode=meta "
            "without leaving a label out of training, found too few; use another mode"
        )
    return train, held_out


def _no_split(train: Sequence[Member], config: TrainConfig) -> str | None:
    """Says why no validation videos are split off the training videos; None where they are."""
    if not config.validation_share:
        return "no validation video: --validation_share=0"
    if (fewest := _fewest(train)) < MIN_FOR_VALIDATION:
        return (
            f"no validation video: {fewest} real training videos of a label, fewer than the "
            f"{MIN_FOR_VALIDATION} that are split"
        )
    return None


def report_reasons(splits: Splits) -> None:
    """Reports what a run can do without but shouldn't lack unnoticed, on standard error."""
    effects = {
        "validation": "; best_on_validation stays null, and video scores aren't calibrated",
        "test": "; the result has no measures",
    }
    for use, why in splits.reasons.items():
        print(f"{why}{effects.get(use, '')}", file=sys.stderr)


def _synthetic(synthetic: Sequence[Store]) -> list[Member]:
    """Lists the generated training videos; other splits don't train."""
    every = [m for s in synthetic for m in members_of(s, None) if m.video.split == "train"]
    for opened in synthetic:
        if not every:
            raise UserError(
                f"{opened.path}: expected generated videos of split train, found none; generate "
                "some with gvvad videos --split=train"
            )
        report_missing([opened], None, "train")
    return every


def _kept(every: Sequence[Member], path: str) -> list[Member]:
    """Lists the generated videos that the filter kept; all of them without decisions."""
    if not path:
        return list(every)
    decisions = read_decisions(path)
    unjudged = [m.video.id for m in every if m.video.id not in decisions]
    if unjudged:
        raise UserError(
            f"{path}: expected a decision on every generated video, found none on "
            f"{unjudged[0]!r} and {len(unjudged) - 1} more; run the filter on this store again"
        )
    return [m for m in every if decisions[m.video.id]]


def _lacking(every: Sequence[Member], kept: Sequence[Member], used: Sequence[Member]) -> str | None:
    """Says of which labels generated videos exist but none trains, and why; None if of none."""
    lacking = []
    for label, name in enumerate(("normal", "abnormal")):
        number, left, trained = (
            sum(m.video.label == label for m in members) for members in (every, kept, used)
        )
        if number and not trained:
            why = "are of groups that are kept out" if left else "are dropped by the filter"
            lacking.append(f"all {number} {name} ones {why}")
    without = "" if used else ": the run trains on real videos alone"
    return f"generated videos: {' and '.join(lacking)}{without}" if lacking else None


def _of_other_groups(
    generated: Sequence[Member], kept_out: Sequence[Member], train: Sequence[Member]
) -> list[Member]:
    """Lists the generated videos of no group that is kept out of training, as by first frames.

    A group that videos.json itself divides isn't kept out.
    """
    groups = {m.video.kin for m in kept_out} - {m.video.kin for m in train}
    rest = [member for member in generated if member.video.kin not in groups]
    if len(rest) < len(generated):
        print(
            f"{len(generated) - len(rest)} generated videos are left out: they are of a group of "
            "validation, held-out or test videos, such as by their first frame",
            file=sys.stderr,
        )
    return rest


def _report_divided_groups(train: Sequence[Member], kept_out: Sequence[Member]) -> None:
    """Reports groups that videos.json itself divides between training and other uses."""
    divided = {m.video.group for m in train} & {m.video.group for m in kept_out} - {None}
    if divided:
        print(
            f"videos.json divides {len(divided)} groups between training and other splits, first "
            f"{min(map(str, divided))!r}: results on them promise too much for other groups",
            file=sys.stderr,
        )


def _fewest(videos: Sequence[Member]) -> int:
    """Counts the videos of the rarer label."""
    return min(sum(m.video.label == label for m in videos) for label in (0, 1))


def _split_off(
    videos: Sequence[Member], share: float, key: tuple[int, int]
) -> tuple[list[Member], list[Member]]:
    """Splits off a share of each label's videos, at least one, drawn by a seeded generator.

    Args:
      videos: the videos.
      share: the share to split off.
      key: the run's seed, and a number that is the caller's own.

    Returns:
      (the rest, the share), both in the given order.
    """
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


def _split_off_groups(
    videos: Sequence[Member], share: float, key: tuple[int, int]
) -> tuple[list[Member], list[Member]]:
    """Splits off videos as `_split_off` does, but whole groups where there are any.

    Groups are drawn while they fit into the share of either label's videos. Where none with a label
    fits, the one is drawn that takes the smallest share of any label. Each label keeps at least one
    video; a share may lack a label whose videos are one group.
    """
    if all(member.video.group is None for member in videos):
        return _split_off(videos, share, key)
    drawn: set[str] = set()
    labels = sorted({member.video.label for member in videos})
    sizes = {
        label: collections.Counter(m.video.kin for m in videos if m.video.label == label)
        for label in labels
    }

    def leaves_all(name: str) -> bool:
        """Returns whether every label still trains once this group is drawn too."""
        return all(sizes[label].keys() - drawn - {name} for label in labels)

    def fits(name: str) -> bool:
        return all(
            sum(sizes[label][each] for each in drawn | {name})
            <= max(1, round(share * sizes[label].total()))
            for label in labels
        )

    def largest_share(name: str) -> float:
        return max(sizes[label][name] / sizes[label].total() for label in labels)

    for label in labels:
        rng = np.random.default_rng([key[0], label, *key[1:]])
        shuffled = rng.permutation(sorted(sizes[label].keys() - drawn)).tolist()
        for name in shuffled:
            if fits(name) and leaves_all(name):
                drawn.add(name)
        if not drawn & sizes[label].keys():
            left = [name for name in shuffled if leaves_all(name)]
            drawn.update(sorted(left, key=largest_share)[:1])
    return (
        [m for m in videos if m.video.kin not in drawn],
        [m for m in videos if m.video.kin in drawn],
    )
