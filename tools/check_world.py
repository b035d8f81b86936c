"""Checks that the built-in world is a fair problem, before any detector is trained on it.

    python -m tools.check_world

Renders footage (training and test videos as H.264 files) and measures on its test videos, in frame
AUC over all of them and over the abnormal ones only:

- every baseline, frame by frame and averaged over snippets, with the better of its two signs: fair
  at 0.80 or less over all videos;
- a frame-supervised linear classifier on the motion features: fair at 0.95 or more, so that what
  is abnormal can be seen in them;
- for information: the oracle that knows each video's label (abnormal-only 0.5 by construction), the
  same classifier with only the videos' labels (weak), and trained on generated videos alone at
  several domain gaps.

Prints a table on standard error and one line of JSON; exit status 1 when the world isn't fair.
"""

import json
import pathlib
import sys
import tempfile

from absl import flags

from gvvad_jax.command import run_command


def main(_: list[str]) -> None:
    import cv2

    from generation.world import render
    from tools.studies import baselines, world_fairness

    cv2.setNumThreads(1)
    names = ("train_pairs", "test_pairs", "generated_pairs", "seed")
    with tempfile.TemporaryDirectory() as folder:
        table = world_fairness.measure(
            pathlib.Path(folder), **{name: flags.FLAGS[name].value for name in names}
        )
    print(f"{'frame AUC on footage':24s}  all videos  abnormal only", file=sys.stderr)
    for name, row in table.items():
        print(f"{name:24s}  {row['auc']:10.3f}  {row['auc_abnormal']:13.3f}", file=sys.stderr)
    faults = world_fairness.faults(table, baselines.RULES)
    summary = {
        "world_version": render.WORLD_VERSION,
        "fair": not faults,
        "faults": faults,
        "table": {
            name: {key: round(value, 4) for key, value in row.items()}
            for name, row in table.items()
        },
    }
    print(json.dumps(summary))
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_integer("train_pairs", 26, "Pairs of training footage.", 1)
    flags.DEFINE_integer("test_pairs", 26, "Pairs of test footage.", 1)
    flags.DEFINE_integer("generated_pairs", 26, "Pairs of generated videos at each domain gap.", 1)
    flags.DEFINE_integer("seed", 0, "Random seed.", 0)
    run_command(main, usage=__doc__)
