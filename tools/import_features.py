"""Imports features that others extracted, as they circulate, into a store.

    python -m tools.import_features --visual=FOLDER|LIST|CSV [--text=FOLDER|LIST]
        [--annotations=videos.json] [--synthetic=PATTERN|LIST] [--encoder=NAME] --out=STORE

Takes .npy, .npz and .h5 files of arrays [T, crops, D], [crops, T, D], [T, D], or one [T, D] for
each crop, whole or in segments. It finds the layout from shapes, names and numbers of files, and
prints it. Labels and splits come from --annotations, from lists or from names. All faulty files are
listed before anything is written. The same command resumes an import that was stopped. Prints one
JSON object.
"""

import json
import sys

from gvvad_jax.command import define_flags, from_flags, run_command
from tools.importing.checks import FaultyFiles
from tools.importing.features import FeatureImport, import_features


def main(_: list[str]) -> None:
    try:
        imported = import_features(from_flags(FeatureImport))
    except FaultyFiles as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        raise
    print(json.dumps(imported))
    if sys.stderr.isatty():
        store = imported.get("out") or imported["synthetic_out"]
        print(f"\nNext: gvvad train --store={store} --detector=rtfm --workdir=RUN", file=sys.stderr)


if __name__ == "__main__":
    define_flags(FeatureImport)
    run_command(main, usage=__doc__)
