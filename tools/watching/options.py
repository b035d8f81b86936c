"""Flags of tools.score_video."""

import dataclasses

from generation.encode.recipe import EncodeOptions
from gvvad_jax import events
from gvvad_jax.command import UserError, check, flag_of, group
from gvvad_jax.config import ALARMS_HELP, CHECKPOINTS, NORMAL_HELP

RUN = group("Detector")
EVENTS = group("Events")
OUTPUT = group("Output")
# Fields of EncodeOptions that say where models are and how they run. All others follow from the
# run, whose features the detector can read.
_FREE = ("weights", "caption_weights", "text_weights", "crops_at_once", "compute_dtype", "device")
_CHAT = (
    "chat_model",
    "sampling",
    "base_url",
    "cache",
    "max_concurrent",
    "attempts",
    "timeout",
    "backoff",
)
_MOST_ALARMS = 3600 / events.ALARM_SECONDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """What to score videos with, what counts as an event, and what to write."""

    workdir: str = RUN("", "Run folder with the trained detector. Required.")
    checkpoint: str = RUN(
        "last",
        "Checkpoint of the run to score with.",
        choices=CHECKPOINTS,
    )
    adaptation: str = RUN(
        "", "Adaptation to a camera, by gvvad calibrate (default: the run as it was trained)."
    )
    out: str = OUTPUT("", "Folder to write to. Required.")
    threshold: float | None = EVENTS(
        None, "Snippet score above which an event begins (default: the run's own threshold)."
    )
    alarms_per_hour: float | None = EVENTS(None, ALARMS_HELP)
    normal_store: str = EVENTS("", NORMAL_HELP)
    annotations: str = OUTPUT(
        "", "A videos.json with the truth about the videos, to be shown beside the scores."
    )
    clips: bool = OUTPUT(False, "Cut each event out of its video, as an .mp4 of its own.")

    def __post_init__(self):
        check(self)
        for name in ("workdir", "out"):
            if not getattr(self, name):
                raise UserError(
                    f"--{name}: expected a folder, found none; give --workdir and --out"
                )
        rate = self.alarms_per_hour
        if rate is not None and not 0 < rate < _MOST_ALARMS:
            raise UserError(
                f"--alarms_per_hour: expected above 0 and below {_MOST_ALARMS:g}, found {rate:g}; "
                "an event counts as an alarm for each of its minutes"
            )
        footage = [n for n in ("alarms_per_hour", "normal_store") if getattr(self, n)]
        for flag in ("threshold", "adaptation"):
            if getattr(self, flag) not in (None, "") and footage:
                remedy = "leave one out" if flag == "threshold" else "give it to gvvad calibrate"
                raise UserError(
                    f"--{flag}: expected without --{footage[0]}, because both set the threshold, "
                    f"found both; {remedy}"
                )


# Where the models of the run's encoder are, and how they run: fields of EncodeOptions.
ModelOptions = dataclasses.make_dataclass(
    "ModelOptions",
    [
        (field.name, field.type, flag_of(EncodeOptions, field.name))
        for field in dataclasses.fields(EncodeOptions)
        if field.name in _FREE + _CHAT
    ],
    frozen=True,
    kw_only=True,
)
