"""Imports ground truth of any format into a videos.json, or exports one for annotation tools.

    python -m tools.import_truth --truth=PATH [--list=test.list,train.list] --out=videos.json
    python -m tools.import_truth --truth=videos.json --to=activitynet|fiftyone|cvat --out=PATH

Formats: ucf (UCF-Crime's folder or temporal annotations), xd (XD-Violence's), npy (all labels one
after the other, in the order of --list), pickle (arrays only), mat (Ped2, Avenue), masks
(ShanghaiTech), activitynet, fiftyone, cvat, videos (videos.json). docs/ground_truth.md has a
recipe for each. Prints one JSON object.
"""

import json
import sys

from gvvad_jax.command import define_flags, from_flags, run_command
from tools.importing.truth import TruthImport, import_truth


def main(_: list[str]) -> None:
    summary = import_truth(from_flags(TruthImport))
    print(json.dumps(summary))
    if sys.stderr.isatty() and summary["to"] == "videos":
        print(
            f"Next: gvvad import-features --annotations={summary['out']} --visual=FEATURES "
            "--out=STORE",
            file=sys.stderr,
        )


if __name__ == "__main__":
    define_flags(TruthImport)
    run_command(main, usage=__doc__)
