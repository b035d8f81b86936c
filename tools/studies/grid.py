"""The grid of a study: its flags, its arms, and the rows of its table in their order."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags

from gvvad_jax import config as config_lib
from gvvad_jax import flagfiles
from gvvad_jax.command import UserError, option
from gvvad_jax.config import TrainConfig
from gvvad_jax.seeds import SEEDS_AT_ONCE
from gvvad_jax.store import annotations, digests
from tools.studies import runs

# Pairs of videos that the world renders for a draw.
TRAIN_PAIRS, TEST_PAIRS, GENERATED_PAIRS = 30, 20, 40
KEEP = ("none", "all", "filter", "random")
# Flags of training that change no number, or that each row sets for itself.
_NOT_DIGESTED = (
    *("store", "synthetic_store", "synthetic_keep", "annotations", "workdir", "seed", "detector"),
    *("verify_rows", "compilation_cache", "device_gigabytes", "checkpoint_every"),
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
      name: name in the table.
      keep: which generated videos to train on: none, all, those that the filter keeps, or as many
        of each label drawn at random.
      flags: fields of TrainConfig that differ from the study's.
      base: the arm that it is compared with; empty for the study's first one.
    """

    name: str
    keep: str
    flags: Mapping[str, Any]
    base: str = ""

    @property
    def generated(self) -> bool:
        """Whether it trains on generated videos."""
        return self.keep != "none"


@dataclasses.dataclass(frozen=True)
class Cell:
    """What identifies a row of a study's table.

    Attributes:
      footage: what the real videos are: "world", or the folder of --videos.
      draw: number of the world or of the random split.
      seed: number of the run on this draw; it also draws which real videos train.
      normal, abnormal: numbers of real training videos.
      gap: the world's domain gap, as text; empty where it has no meaning.
      clips: what the generated videos are: "world", or the folder of --clips; empty without any.
      arm: name of the arm.
      detector: name of the detector.
    """

    footage: str
    draw: int
    seed: int
    normal: int
    abnormal: int
    gap: str
    clips: str
    arm: str
    detector: str

    @property
    def pair(self) -> tuple[int, int]:
        """What rows of two arms share that make a pair of a paired difference."""
        return self.draw, self.seed

    def __str__(self) -> str:
        gap = f", gap {self.gap}" if self.gap else ""
        return (
            f"draw {self.draw}, seed {self.seed}, {self.normal}+{self.abnormal} videos{gap}, "
            f"{self.arm}, {self.detector}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridStudy(runs.Study):
    """A grid of training runs; each field is a flag."""

    csv: str = option("", "The study's table; rows that it holds aren't run again.")
    footage: str = option(
        "world",
        "Real videos of the study: the built-in world's, or random splits of --videos.",
        choices=("world", "videos"),
    )
    draws: int = option(5, "Number of worlds or random splits.", low=1)
    first_draw: int = option(
        0, "Number of the first draw; recipes are chosen on draws from 100 on.", low=0
    )
    detectors: str = option(
        ",".join(config_lib.DETECTORS), "Detectors to train, separated by commas."
    )
    counts: str = option(
        "30+30",
        "Numbers of real training videos, normal + abnormal, separated by commas; smaller sets are "
        "parts of larger ones.",
    )
    gaps: str = option(
        "1", "Domain gaps of the world's generated videos, separated by commas; see --domain_gap."
    )
    clips: str = option(
        "world",
        "Generated videos: world, or a videos.json or folder of videos that are the same for every "
        "draw.",
    )
    abnormal_clips: str = option(
        "",
        "Names of the abnormal videos in the folder of --clips, without their endings, separated "
        "by commas; all others are normal.",
    )
    snippet_frames: int = option(16, "Frames of a snippet, for the motion encoder.", low=1)
    snippet_stride: int = option(4, "Frames between the starts of two snippets.", low=1)
    jobs: int = option(2, "Processes that train, each on one core.", low=1, free=True)
    seeds_at_once: int = SEEDS_AT_ONCE

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", self.out or "runs/studies")
        super().__post_init__()
        if not self.csv.endswith(".csv"):
            raise UserError(
                f"--csv: expected the .csv of the study's table, found {self.csv or 'none'}; give "
                "one, such as docs/studies/helps_footage.csv"
            )
        strange = set(self.detector_names) - set(config_lib.DETECTORS)
        if strange or not self.detector_names:
            raise UserError(
                f"--detectors: expected some of {', '.join(config_lib.DETECTORS)}, found "
                f"{self.detectors!r}; correct it"
            )
        # Both raise on a text that is none.
        _ = self.numbers, self.gap_names

    def require_videos(self) -> None:
        """Raises UserError if videos that the study needs aren't named, or aren't there."""
        if self.footage == "videos" and not self.videos:
            raise UserError(
                "--videos: expected a videos.json for --footage=videos, found none; name one"
            )
        if self.clips != "world" and not pathlib.Path(self.clips).exists():
            raise UserError(
                f"--clips={self.clips}: expected world, a videos.json or a folder of videos, found "
                "nothing there; correct the path"
            )

    @property
    def detector_names(self) -> list[str]:
        return [name for name in self.detectors.split(",") if name]

    @property
    def numbers(self) -> list[tuple[int, int]]:
        """(normal, abnormal) real training videos, in the order of --counts."""
        try:
            pairs = [tuple(map(int, each.split("+"))) for each in self.counts.split(",")]
            if any(len(pair) != 2 or min(pair) < 1 for pair in pairs):
                raise ValueError
        except ValueError as error:
            raise UserError(
                f"--counts: expected numbers such as 30+3,30+6, found {self.counts!r}; correct it"
            ) from error
        return [(normal, abnormal) for normal, abnormal in pairs]

    @property
    def largest(self) -> tuple[int, int]:
        """The largest numbers of normal and of abnormal videos."""
        return max(n for n, _ in self.numbers), max(n for _, n in self.numbers)

    @property
    def gap_names(self) -> list[str]:
        """The domain gaps as text, such as 0.5; one empty text where clips aren't the world's."""
        if self.clips != "world":
            return [""]
        try:
            gaps = [float(gap) for gap in self.gaps.split(",")]
            if not all(math.isfinite(gap) and gap >= 0 for gap in gaps):
                raise ValueError
        except ValueError as error:
            raise UserError(
                f"--gaps: expected numbers from 0 on, such as 0,0.5,1, found {self.gaps!r}; "
                "correct it"
            ) from error
        return [f"{gap:g}" for gap in gaps]

    @property
    def footage_name(self) -> str:
        return "world" if self.footage == "world" else _folder_name(self.videos)

    @property
    def clips_name(self) -> str:
        return "world" if self.clips == "world" else _folder_name(self.clips)


def _folder_name(path: str) -> str:
    """The name of a folder, or of the folder of a videos.json."""
    resolved = pathlib.Path(path).resolve()
    return resolved.parent.name if resolved.suffix == ".json" else resolved.name


def parse_arms(texts: Sequence[str]) -> list[Arm]:
    """Parses arms that were given as "NAME: FLAGS".

    FLAGS are flags of training (a --flagfile, too), --keep=none|all|filter|random (default: all)
    and --base=NAME, the arm to compare with.

    Raises:
      UserError: an arm is none, two have one name, a flag is unknown, or there is no arm.
    """
    arms: list[Arm] = []
    for text in texts:
        name, colon, given = (part.strip() for part in text.partition(":"))
        if not name or not colon:
            raise UserError(
                f"--arm: expected NAME: FLAGS, such as 'real only: --keep=none', found {text!r}; "
                "correct it"
            )
        arm = _arm(name, given)
        if arm.base and arm.base not in [earlier.name for earlier in arms]:
            raise UserError(
                f"--arm={name}: expected --base to name an arm above it, found {arm.base!r}"
            )
        if name in [earlier.name for earlier in arms]:
            raise UserError(f"--arm={name}: expected one arm of a name, found two; rename one")
        arms.append(arm)
    if not arms:
        raise UserError("--arm: expected at least one arm, NAME: FLAGS, found none; give some")
    return arms


def _arm(name: str, given: str) -> Arm:
    try:
        # A value ends where the next flag begins: names of arms have spaces.
        words = [word for word in re.split(r"\s+(?=--)", given) if word]
        own = {key: _value(words, key) for key in ("keep", "base")}
        words = [w for w in words if w.partition("=")[0] not in ("--keep", "--base")]
        words = flagfiles.expand(["arm", *words], "gvvad_jax.train")[1:]
    except (ValueError, flagfiles.FlagError) as error:
        raise UserError(f"--arm={name}: {error}") from error
    values = {}
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        positive = key.removeprefix("no")
        if not equals and positive in fields and fields[positive].type is bool:
            key, equals, value = positive, "=", str(key == positive)
        if not word.startswith("--") or not equals or key not in fields or key in _PER_ROW:
            raise UserError(
                f"--arm={name}: expected flags of training, --FLAG=VALUE, found {word!r}; correct "
                "it"
            )
        values[key] = _parsed(name, fields[key], value)
    keep = own["keep"] or "all"
    if keep not in KEEP:
        raise UserError(
            f"--arm={name}: expected --keep to be one of {', '.join(KEEP)}, found {keep!r}"
        )
    return Arm(name, keep, values, own["base"])


# Flags that every row sets for itself.
_PER_ROW = (
    *("store", "synthetic_store", "synthetic_keep", "annotations", "workdir", "seed", "detector"),
    "real_share",
)


def _value(words: Sequence[str], key: str) -> str:
    values = [w.partition("=")[2] for w in words if w.partition("=")[0] == f"--{key}"]
    return values[-1] if values else ""


_PARSERS: dict[Any, Any] = {
    bool: absl_flags.BooleanParser(),
    int: absl_flags.IntegerParser(),
    int | None: absl_flags.IntegerParser(),
    float: absl_flags.FloatParser(),
    float | None: absl_flags.FloatParser(),
}


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _parsed(arm: str, field: dataclasses.Field, value: str) -> Any:
    try:
        if field.type == tuple[int, ...]:
            return tuple(int(item) for item in value.split(",") if item)
        if field.type == float | str | None:
            return _number_or_text(value)
        return _PARSERS[field.type].parse(value) if field.type in _PARSERS else value
    except ValueError as error:
        raise UserError(f"--arm={arm}: --{field.name}: {error}; correct it") from error


def cells(study: GridStudy, arms: Sequence[Arm]) -> Iterator[Cell]:
    """Yields the rows of a study in their order.

    Draws and seeds are outermost, so that every part of the table is a whole, smaller study. Arms
    without generated videos depend on no gap and are run once.
    """
    first_gap = study.gap_names[0]
    for draw in range(study.first_draw, study.first_draw + study.draws):
        for seed in range(study.seeds):
            for normal, abnormal in study.numbers:
                for gap in study.gap_names:
                    for arm in arms:
                        if not arm.generated and gap != first_gap:
                            continue
                        with_clips = (gap, study.clips_name) if arm.generated else ("", "")
                        for detector in study.detector_names:
                            yield Cell(
                                study.footage_name, draw, seed, normal, abnormal, *with_clips,
                                arm.name, detector,
                            )  # fmt: skip


def arm_config(train: TrainConfig, arm: Arm, detector: str) -> TrainConfig:
    """Returns the flags of an arm's runs, without their data."""
    return dataclasses.replace(train, detector=detector, **arm.flags)


def flags_digest(study: GridStudy, train: TrainConfig, arm: Arm, detector: str) -> str:
    """Digests all that a row's numbers depend on besides what identifies the row.

    A flag at its default, or without effect, doesn't count, so that flags of later versions leave
    today's rows valid.
    """
    from generation.encoders.motion import MotionEncoder
    from generation.encoders.motion_captions import MotionCaptioner
    from generation.prompts.descriptions import TEMPLATE_VERSION
    from generation.world.render import WORLD_VERSION

    config = arm_config(train, arm, detector)
    if arm.generated:
        config = dataclasses.replace(config, synthetic_store="generated")
    unread = config_lib.unread_flags(config)
    values = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
        and field.name not in (*_NOT_DIGESTED, *unread)
    }
    encoders = [MotionEncoder.id, study.snippet_frames, study.snippet_stride]
    if config.uses_text:
        encoders.append(MotionCaptioner.id)
    world = [WORLD_VERSION, TEMPLATE_VERSION]
    made_of: dict[str, Any] = {"flags": values, "encoders": encoders}
    if study.footage == "world":
        made_of["real"] = [*world, TRAIN_PAIRS, TEST_PAIRS]
    else:
        # A random split tests on all videos that the largest number leaves.
        made_of["real"] = [_list_digest(study.videos), *study.largest]
    if arm.generated:
        made_of["keep"] = arm.keep
        made_of["generated"] = [*world, GENERATED_PAIRS]
        if study.clips != "world":
            made_of["generated"] = [study.abnormal_clips]
    return digests.of_json(made_of)[:8]


def _list_digest(path: str) -> str:
    return digests.of_json(annotations.load(path).to_json())


def run_seed(cell: Cell) -> int:
    """The random seed of a row's training: the same for every arm and detector of a pair."""
    return 1000 * cell.draw + cell.seed
