"""Frame-level measures of a trained detector, or of any scores.

    python -m gvvad_jax.evaluate --workdir=W --store=STORE [--annotations=videos.json]
    python -m gvvad_jax.evaluate --scores=S.npz --ground_truth=videos.json|G.npz

Prints one JSON object {auc, ap, pr_auc, auc_abnormal, far, per_class, videos, frames}, with
`missing` where test videos couldn't be encoded.
"""

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from gvvad_jax.command import UserError, refuse_flags, run_command
from gvvad_jax.evaluation import measure_files, measure_members
from gvvad_jax.store import annotations


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    if bool(values.workdir) == bool(values.scores):
        raise UserError("expected either --workdir or --scores, found both or neither")
    if values.workdir:
        refuse_flags("--workdir", ("ground_truth",))
    else:
        refuse_flags("--scores", ("store", "annotations", "split", "checkpoint"))
    found = _of_workdir() if values.workdir else measure_files(values.scores, values.ground_truth)
    print(json.dumps(found))


def _of_workdir() -> dict[str, Any]:
    from gvvad_jax import scoring
    from gvvad_jax.splits import members_of, report_missing
    from gvvad_jax.store.reader import Store

    values = flags.FLAGS
    if not values.store:
        raise UserError("--store: expected a feature store with test videos, found none")
    opened = Store(values.store)
    override = annotations.load(values.annotations) if values.annotations else None
    missing = report_missing([opened], override, values.split)
    test = [member for member in members_of(opened, override) if member.video.split == values.split]
    if not test:
        raise UserError(
            f"{values.annotations or values.store}: expected videos of split {values.split}, "
            "found none; correct the annotations or give another --split"
        )
    model = scoring.load(values.workdir, values.checkpoint)
    model.require(opened.manifest, values.store)
    path = (override or opened.videos).path
    return measure_members(model, test, missing=len(missing), path=path)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "a run's folder")
    flags.DEFINE_string("store", "", "feature store with the test videos")
    flags.DEFINE_string("annotations", "", "videos.json that overrides the one in the store")
    flags.DEFINE_string("split", "test", "which videos")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best_on_validation", "best_on_test"], "which")
    flags.DEFINE_string("scores", "", "S.npz of frame scores, instead of a run")
    flags.DEFINE_string("ground_truth", "", "videos.json or G.npz, with --scores")
    run_command(main, usage=__doc__)
