"""Measures a trained detector by frame, by video and by events, or any scores by frame.

    python -m gvvad_jax.evaluate --workdir=W --store=STORE [--annotations=videos.json]
        [--alarms_per_hour=R] [--normal_store=STORE]
    python -m gvvad_jax.evaluate --scores=S.npz --ground_truth=videos.json|G.npz

Prints one JSON object {auc, ap, pr_auc, auc_abnormal, far, per_class, video_auc, video_ap, ece,
ece_uncalibrated, threshold, alarms_per_hour, normal_hours, reasons, videos, frames}, with `missing`
where test videos couldn't be encoded. `reasons` says why a measure is null.
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from gvvad_jax.command import UserError, refuse_flags, run_command
from gvvad_jax.store.reader import Store

if TYPE_CHECKING:
    from gvvad_jax.evaluation import Measures


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    if bool(values.workdir) == bool(values.scores):
        raise UserError("expected either --workdir or --scores, found both or neither")
    if values.workdir:
        refuse_flags("--workdir", ("ground_truth",))
        measures = _measure_run()
    else:
        refuse_flags(
            "--scores",
            ("store", "annotations", "split", "checkpoint", "alarms_per_hour", "normal_store"),
        )
        from gvvad_jax.evaluation import measure_files

        measures = measure_files(values.scores, values.ground_truth)
    print(json.dumps(measures))
    if sys.stderr.isatty():
        print(summary(measures), file=sys.stderr)


def _measure_run() -> "Measures":
    values = flags.FLAGS
    if not values.store:
        raise UserError("--store: expected a feature store with test videos, found none")
    # Before the slow imports: a wrong path is reported at once.
    store = Store(values.store, verify_rows=values.verify_rows)
    from gvvad_jax import scoring

    model = scoring.load(values.workdir, values.checkpoint)
    return model.evaluate(
        store,
        values.split,
        values.annotations or None,
        alarms_per_hour=values.alarms_per_hour,
        normal_store=values.normal_store,
    )


def summary(measures: "Measures") -> str:
    """The measures and the next command, for people."""
    from gvvad_jax.evaluation import describe

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
        "Compare each video's rows with their digest when they are first read; about 0.2 seconds "
        "per 100 MB.",
    )
    flags.DEFINE_string(
        "annotations", "", "Path of a videos.json that overrides the one in the store."
    )
    flags.DEFINE_string("split", "test", "Split to measure: train, validation or test.")
    flags.DEFINE_enum(
        "checkpoint",
        "last",
        ["last", "best_on_validation", "best_on_test"],
        "Checkpoint of the run to measure.",
    )
    flags.DEFINE_float(
        "alarms_per_hour",
        None,
        "Alarms an hour of normal footage that the threshold of events is set by; less than 3 / R "
        "hours of footage support more alarms only, which is reported. Evaluation takes the run's "
        "by default.",
        lower_bound=0.001,
        upper_bound=59.0,
    )
    flags.DEFINE_string(
        "normal_store",
        "",
        "Feature store of normal footage, not trained on, to set the threshold on (default: the "
        "normal validation videos).",
    )
    flags.DEFINE_string("scores", "", "S.npz of frame scores to measure instead of a run.")
    flags.DEFINE_string(
        "ground_truth", "", "Ground truth for --scores, a videos.json or a G.npz of 0 and 1."
    )
    run_command(main, usage=__doc__)
