"""Fit a trained detector to a camera by the camera's normal footage, and by feedback on alarms.

    python -m tools.calibrate --workdir=W --normal=FOLDER --alarms_per_hour=0.08 --out=CAMERA.json
    python -m tools.calibrate --workdir=W --normal_store=STORE --out=CAMERA.json
    python -m tools.calibrate --workdir=W --normal=FOLDER --feedback=labels.csv --out=CAMERA.json

FOLDER holds videos of the camera in which nothing abnormal happens, and which the run wasn't
trained on. They set how its features are standardised, the threshold of events, and what later
footage is compared with to see drift. labels.csv (video,start,end,label; seconds; 1 for a true
event, 0 for a false alarm) corrects the scores, if that helps on videos that are held out.
CAMERA.json, and CAMERA.correction.npz beside it if there is a correction, is applied by
--adaptation of watch, score and evaluate; the run's folder stays as it is. Prints one JSON object.
docs/calibration.md says what each part gains.
"""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gvvad_jax.command import (
    UserError,
    check,
    define_flags,
    flag_of,
    from_flags,
    group,
    run_command,
)
from gvvad_jax.config import ALARMS_HELP, NORMAL_HELP
from gvvad_jax.store import folders
from tools.watching.options import ModelOptions, WatchOptions

if TYPE_CHECKING:
    from gvvad_jax.adaptation import Adaptation, Correction
    from gvvad_jax.scoring import Model
    from tools.adapting.camera import Footage
    from tools.adapting.footage import Encode

CAMERA = group("Camera")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """What to fit to what."""

    workdir: str = flag_of(WatchOptions, "workdir")
    checkpoint: str = flag_of(WatchOptions, "checkpoint")
    normal: str = CAMERA(
        "", "Folder of the camera's videos without anything abnormal. This or --normal_store."
    )
    normal_store: str = CAMERA("", NORMAL_HELP)
    alarms_per_hour: float | None = CAMERA(None, ALARMS_HELP)
    feedback: str = CAMERA("", "Feedback on alarms, a CSV of video,start,end,label (seconds; 0/1).")
    feedback_videos: str = CAMERA(
        "", "Folder or store of the videos that --feedback names (default: the CSV's folder)."
    )
    keep_feedback: bool = CAMERA(
        False, "Keep what --feedback gives even if it isn't better on held-out videos."
    )
    out: str = CAMERA(
        "", "File to write, a .json; or a folder, for adaptation.json in it. Required."
    )

    def __post_init__(self) -> None:
        check(self)
        for name in ("workdir", "out"):
            if not getattr(self, name):
                raise UserError(f"--{name}: expected a path, found none; give --workdir and --out")
        if bool(self.normal) == bool(self.normal_store):
            found = "both" if self.normal else "neither"
            raise UserError(
                f"expected either --normal or --normal_store, found {found}; give a folder of the "
                "camera's videos, or a store of them"
            )
        if (self.feedback_videos or self.keep_feedback) and not self.feedback:
            raise UserError(
                "--feedback: expected a CSV for --feedback_videos and --keep_feedback, found none"
            )
        rate = self.alarms_per_hour
        if rate is not None and not 0.001 <= rate <= 59:
            raise UserError(f"--alarms_per_hour: expected 0.001 to 59, found {rate}; correct it")

    @property
    def path(self) -> pathlib.Path:
        """The file to write."""
        is_folder = os.path.isdir(self.out) or self.out.endswith("/")
        path = pathlib.Path(self.out, "adaptation.json") if is_folder else pathlib.Path(self.out)
        if path.suffix != ".json":
            raise UserError(
                f"--out={self.out}: expected a .json or a folder, found another name; give one"
            )
        return path


def main(_: Sequence[str]) -> None:
    print(json.dumps(calibrate(from_flags(CalibrateOptions), from_flags(ModelOptions))))


def calibrate(options: CalibrateOptions, models: Any = None) -> dict[str, Any]:
    """Fits a run to a camera and writes the adaptation's file; returns what the command prints.

    Args:
      options: what to fit to what.
      models: where the encoder's checkpoints are, a ModelOptions.

    Raises:
      UserError: a fault of the run, of the footage or of the feedback.
    """
    path = options.path
    folders.require_own_file(path, b'{\n "format_version": 1,\n "run"')
    if options.feedback:
        from gvvad_jax import adaptation

        folders.require_own_file(adaptation.correction_path(path), b"PK")
        from tools.adapting import feedback

        feedback.read(options.feedback)  # Before anything slow.
    path.parent.mkdir(parents=True, exist_ok=True)
    from gvvad_jax import adaptation, calibration, scoring
    from tools.adapting import camera, footage

    model = scoring.load(options.workdir, options.checkpoint)
    rate = options.alarms_per_hour or model.config.alarms_per_hour
    opened: list[Encode] = []

    def encode() -> "Encode":
        if not opened:
            opened.append(footage.encoder(options.workdir, model, models))
        return opened[0]

    if options.normal:
        normal = footage.of_folder(options.normal, encode())
    else:
        normal = footage.of_store(model, options.normal_store)
    found, correction, said = camera.fit(model, normal, rate), None, None
    if options.feedback:
        correction, said = _learned(options, adaptation.adapted(model, found, None), encode)
        if correction:
            found = _with_correction(model, found, correction, normal, rate)
    adaptation.write(path, found, correction, said)
    if warned := calibration.describe(found.threshold):
        print(f"warning: {path}: {warned}", file=sys.stderr)
    return summary(path, found, correction is not None, said)


def _learned(
    options: CalibrateOptions, model: "Model", encode: Any
) -> "tuple[Correction | None, dict[str, Any]]":
    """Learns from feedback on a fitted detector; (None, measures) where that isn't kept."""
    from tools.adapting import feedback, footage, tuning

    path, rows = options.feedback, feedback.read(options.feedback)
    videos = footage.of_feedback(path, rows, model, options.feedback_videos, encode)
    labels = feedback.labels(path, [r for r in rows if r.video in videos.times], videos.times)
    snippets = tuning.gather(model, videos, labels)
    tuning.require_both(path, snippets)
    said = tuning.held_out(snippets)
    print(tuning.describe(said), file=sys.stderr)
    if said["better"] or options.keep_feedback:
        return tuning.learn(snippets), said
    print(
        f"{path}: not kept, because it isn't better on held-out videos; give more feedback, or "
        "--keep_feedback",
        file=sys.stderr,
    )
    return None, said


def _with_correction(
    model: "Model",
    found: "Adaptation",
    correction: "Correction",
    normal: "Footage",
    rate: float,
) -> "Adaptation":
    """Sets the threshold anew on corrected scores of the normal footage."""
    import msgspec

    from gvvad_jax import adaptation
    from tools.adapting import camera

    step = adaptation.corrected(model.score_step, correction)
    fitted = camera.fit(dataclasses.replace(model, score_step=step), normal, rate)
    return msgspec.structs.replace(
        fitted,
        temperature=None,
        temperature_reason="the run's was fitted to scores before feedback corrected them",
    )


def summary(
    path: pathlib.Path, found: "Adaptation", is_kept: bool, feedback: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns what the command prints."""
    content = {"out": str(path), **dataclasses.asdict(found.threshold), "footage": found.footage}
    content["rates"] = [[rate.threshold, rate.alarms_per_hour] for rate in found.rates]
    if feedback is not None:
        content["feedback"] = feedback | {"kept": is_kept}
    return content


if __name__ == "__main__":
    define_flags(CalibrateOptions, ModelOptions)
    run_command(main, usage=__doc__)
