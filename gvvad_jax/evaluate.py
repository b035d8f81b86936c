"""Measures a trained detector by frame, by video and by events, or any scores by frame and event.

    python -m gvvad_jax.evaluate --workdir=W --store=STORE [--annotations=videos.json]
        [--alarms_per_hour=R] [--normal_store=STORE] [--adaptation=CAMERA.json]
    python -m gvvad_jax.evaluate --scores=S.npz --ground_truth=videos.json|G.npz

Both take [--bootstrap=1000] [--compare=OTHER] [--wanted_far=0.01] [--far_threshold=0.5]
[--alignment=published] [--per_video=V.csv] [--curves=FOLDER]; docs/evaluation.md says what each
measure is. Prints one JSON object {auc, ap, pr_auc, auc_abnormal, far, far_threshold, eer,
eer_threshold, per_class, video_auc, video_ap, ece, ece_uncalibrated, threshold, alarms_per_hour,
normal_hours, event_precision, event_recall, detection_delay, event_ap, event_map, alignment,
reasons, videos, frames}, with `missing` where test videos couldn't be encoded, `drift` where
features leave the range that the detector knows, and threshold_set_on, wanted_far, intervals and
comparison where they are asked for. `reasons` says why a measure is null.
"""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from gvvad_jax.command import UserError, refuse_flags, run_command
from gvvad_jax.config import ALARMS_HELP, CHECKPOINTS, NORMAL_HELP
from gvvad_jax.store import folders
from gvvad_jax.store.files import write_atomically, write_json
from gvvad_jax.store.reader import Store

if TYPE_CHECKING:
    from gvvad_jax.measures import MeasureOptions, Measures
    from gvvad_jax.scored import Scored


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    if bool(values.workdir) == bool(values.scores):
        found = "both" if values.scores else "neither"
        raise UserError(
            f"expected either --workdir or --scores, found {found}; give the folder of a run, or "
            "scores to measure"
        )
    if values.per_video and not values.per_video.endswith((".csv", ".json")):
        raise UserError(
            f"--per_video: expected a .csv or a .json, found {values.per_video}; name one"
        )
    if values.curves:
        import matplotlib as _matplotlib  # noqa: F401, before anything slow

        folders.require_own(values.curves, "curves", flag="--curves")
    if values.workdir:
        refuse_flags("--workdir", ("ground_truth",))
        test, measures = _measure_run()
    else:
        names = ("store", "annotations", "split", "checkpoint", "adaptation", "normal_store")
        refuse_flags("--scores", names)
        test, measures = _measure_scores()
    if values.per_video:
        _write_per_video(values.per_video, measures.pop("per_video", {}))
    if values.curves:
        _draw(values.curves, test, measures)
    print(json.dumps(measures))
    if sys.stderr.isatty():
        print(summary(measures), file=sys.stderr)


def _options() -> "MeasureOptions":
    from gvvad_jax.measures import MeasureOptions

    values = flags.FLAGS
    return MeasureOptions(
        alignment=values.alignment,
        far_threshold=values.far_threshold,
        wanted_far=values.wanted_far,
        bootstrap=values.bootstrap,
        seed=values.bootstrap_seed,
        per_video=bool(values.per_video),
    )


def _measure_scores() -> "tuple[Scored, Measures]":
    from gvvad_jax import evaluation

    values, options = flags.FLAGS, _options()
    test = evaluation.read_scored(values.scores, values.ground_truth, options.alignment)
    other = None
    if values.compare:
        other = evaluation.read_scored(values.compare, values.ground_truth, options.alignment)
    return test, evaluation.measure_scored(test, options, values.alarms_per_hour, other)


def _measure_run() -> "tuple[Scored, Measures]":
    values, options = flags.FLAGS, _options()
    if not values.store:
        raise UserError("--store: expected a feature store with test videos, found none")
    # Before the slow imports: a wrong path is reported at once.
    store = Store(values.store, verify_rows=values.verify_rows)
    from gvvad_jax import adaptation, model_measures, scoring

    model = scoring.load(values.workdir, values.checkpoint)
    if values.adaptation:
        model = adaptation.apply(model, values.adaptation)
    videos = model_measures.open_videos(store, values.split, values.annotations or None)
    other = scoring.load(values.compare, values.checkpoint) if values.compare else None
    return model_measures.measure_store(
        model, videos, values.alarms_per_hour, values.normal_store, options, other
    )


def _write_per_video(path: str, per_video: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the measures of each video as CSV, a line a video, or as JSON by id."""
    if not per_video:
        raise UserError("--per_video: expected labels of frames, found none; see `reasons`")
    if path.endswith(".json"):
        write_json(path, dict(per_video))
        return
    text = io.StringIO()
    columns = ["video", *next(iter(per_video.values()))]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"video": i} | dict(row) for i, row in per_video.items())
    write_atomically(path, text.getvalue().encode())


def _draw(folder: str, test: "Scored", measures: "Measures") -> None:
    from gvvad_jax import plots

    if test.unlabelled:
        raise UserError(f"--curves: expected labels of frames, found none: {test.unlabelled}")
    plots.write(folder, test, (measures["threshold"] or {}).get("threshold"))


def summary(measures: "Measures") -> str:
    """The measures and the next command, for people."""
    from gvvad_jax.measures import describe

    values = flags.FLAGS
    if not values.workdir:
        return f"\n{values.scores}: {describe(measures)}"
    return (
        f"\n{values.workdir}, {values.checkpoint}: {describe(measures)}\n"
        f"Next: gvvad score --workdir={values.workdir} --store={values.store} "
        "--out=scores.npz"
    )


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "Run folder with the trained detector.")
    flags.DEFINE_string("store", "", "Feature store with the test videos.")
    flags.DEFINE_bool(
        "verify_rows",
        True,
        "Compare each video's rows with their digest when they are first read; at most 0.2 "
        "seconds per 100 MB.",
    )
    flags.DEFINE_string(
        "annotations", "", "Path of a videos.json that overrides the one in the store."
    )
    flags.DEFINE_string("split", "test", "Split to measure: train, validation or test.")
    flags.DEFINE_enum(
        "checkpoint",
        "last",
        CHECKPOINTS,
        "Checkpoint of the run to measure.",
    )
    flags.DEFINE_string(
        "adaptation",
        "",
        "Adaptation to a camera, by gvvad calibrate (default: the run as it was trained).",
    )
    flags.DEFINE_float(
        "alarms_per_hour",
        None,
        ALARMS_HELP,
        lower_bound=0.001,
        upper_bound=59.0,
    )
    flags.DEFINE_string(
        "normal_store",
        "",
        NORMAL_HELP,
    )
    flags.DEFINE_enum(
        "alignment",
        "auto",
        ["auto", "time", "published"],
        "How scores belong to frames: time gives a frame the mean of the snippets that cover it; "
        "published repeats each snippet's score 16 times and cuts or pads the labels to that; auto "
        "takes what the run's --fidelity says, and bare scores as they are, one a frame.",
    )
    flags.DEFINE_float(
        "far_threshold",
        0.5,
        "Score above which a frame is an alarm, for the false alarm rate and by video.",
    )
    flags.DEFINE_float(
        "wanted_far",
        None,
        "Finds the threshold at which at most this share of the test videos' normal frames is "
        "alarms.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_integer(
        "bootstrap",
        0,
        "Draws of test videos, whole groups where videos.json has them, that intervals and "
        "comparisons rest on; 0 for none.",
        lower_bound=0,
        upper_bound=1_000_000,
    )
    flags.DEFINE_integer("bootstrap_seed", 0, "Seed of the draws.", lower_bound=0)
    flags.DEFINE_string(
        "compare",
        "",
        "Another detector to compare with on the same videos: the S.npz of other scores, or, with "
        "--workdir, another run's folder.",
    )
    flags.DEFINE_string(
        "per_video", "", "Path of a .csv or .json to write the measures of each video to."
    )
    flags.DEFINE_string(
        "curves",
        "",
        "Folder to write plots to: the ROC and precision-recall curves, and scores of test videos.",
    )
    flags.DEFINE_string("scores", "", "S.npz of frame scores to measure instead of a run.")
    flags.DEFINE_string(
        "ground_truth", "", "Ground truth for --scores, a videos.json or a G.npz of 0 and 1."
    )
    run_command(main, usage=__doc__)
