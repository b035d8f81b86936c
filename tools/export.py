"""Exports a detector as one file that runs without this package: StableHLO, or ONNX without JAX.

    python -m tools.export --workdir=W|hf:USER/NAME --format=onnx --out=detector.onnx
    python -m tools.export --workdir=W|hf:USER/NAME --format=stablehlo --out=detector.stablehlo

The file takes the raw features of one video of any length, visual [T, crops, dim] and for a
detector with text text [T, text_dim], standardises them itself, and gives scores [T]. It is
compared with the detector on random videos of several lengths, under the format's own runtime,
before it is put in place. OUT.json beside it says which features it takes, its threshold, and what
the comparison gave. Prints that as one JSON object. docs/sharing.md has programs that run the file.
"""

import json
import sys

from gvvad_jax.command import define_flags, from_flags, run_command
from tools.exporting.exporting import ExportOptions, export


def main(_: list[str]) -> None:
    options = from_flags(ExportOptions)
    exported = export(options)
    print(json.dumps(exported))
    if sys.stderr.isatty():
        print(
            f"\n{options.out}: differs from the detector by at most "
            f"{exported['compared']['largest_difference']:.1e}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    define_flags(ExportOptions)
    run_command(main, usage=__doc__)
