"""Measures the filter on planted defects, on a set with broken videos, and on videos in files.

    python -m tools.filter_suite --json=suite.json
    python -m tools.filter_suite --clips=FOLDER --reference=videos.json     generated videos too

Prints, beside what dropping as many videos at random does: the share dropped of each kind and
severity of defect (tools/studies/defects.py) by the pixel stage, the sound videos dropped by class
and domain gap, and what the whole filter drops of a set of which the world broke a share. Two kinds
of defects were kept out of every choice of measures and bounds; their rows are marked. See
tools/studies/filter_quality.py.
"""

import pathlib
from typing import Any

from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store.files import write_json


def main(_: list[str]) -> None:
    values = flags.FLAGS
    if bool(values.clips) != bool(values.reference):
        raise UserError("--clips, --reference: expected both or neither, found one; give both")
    if not values.clips and not values.pairs:
        raise UserError("--pairs=0: expected --clips to judge instead, found none; give one")
    import cv2

    from tools.studies import filter_quality

    cv2.setNumThreads(1)
    if values.json:
        pathlib.Path(values.json).resolve().parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    if values.clips:  # First: the files may be missing, and the rest takes minutes.
        paths = pathlib.Path(values.clips), pathlib.Path(values.reference)
        results["real_clips"] = filter_quality.judged_files(*paths)
    if values.pairs:
        world = filter_quality.world_suite(values.pairs, values.real_pairs, values.seed)
        results = world | results
    print(filter_quality.table(results))
    if values.json:
        write_json(values.json, results)


if __name__ == "__main__":
    flags.DEFINE_integer("seed", 0, "Random seed. The filter's bounds were chosen at 11 and 12.", 0)
    flags.DEFINE_integer(
        "pairs", 13, "Pairs of generated videos that the world renders; 0 judges --clips alone.", 0
    )
    flags.DEFINE_integer("real_pairs", 26, "Pairs of footage to compare with.", 1)
    flags.DEFINE_string("clips", None, "Folder of generated videos to judge as well.")
    flags.DEFINE_string("reference", None, "The videos.json of real videos for --clips.")
    flags.DEFINE_string("json", None, "JSON file to write all counts to.")
    run_command(main, usage=__doc__)
