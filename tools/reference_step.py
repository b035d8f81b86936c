"""Compares one training step of a detector with the numbers measured on the published one.

    python -m tools.reference_step --golden=FILE.npz

Prints {"outputs", "losses", "gradients", "optimiser", "inference", "ok"}: the largest error of
each, relative to the largest value of its array, and whether all are within bounds
(tools/published/comparison.py). Sizes come from the file's arrays, the rest from its meta/*. Exit
status 1 when an error is out of bounds.
"""

import json
import sys
from typing import Any

from absl import flags

from gvvad_jax.command import UserError, run_command


def main(_: list[str]) -> None:
    if not flags.FLAGS.golden:
        raise UserError("--golden: expected an .npz of a reference run, found none; name one")
    from tools.published import comparison

    errors: dict[str, Any] = comparison.compare(flags.FLAGS.golden)
    errors["ok"] = all(errors[kind] <= bound for kind, bound in comparison.BOUNDS.items())
    print(json.dumps(errors))
    if not errors["ok"]:
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("golden", "", "The .npz file of a reference run. Required.")
    run_command(main, usage=__doc__)
