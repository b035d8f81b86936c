"""Estimates what a synthetic store costs before anything is started: hours, gigabytes, money.

    python -m tools.generation_budget --pairs=300 --generator=cogvideox-2b
    python -m tools.generation_budget --price_input=2.5 --price_output=10 --clips=FOLDER

The figures are computed, not measured, and every line says what it comes from
(tools/studies/costs.py). Prints a table on standard error and one JSON object on standard output.
"""

import dataclasses
import json
import sys

from absl import flags

from gvvad_jax.command import define_flags, from_flags, run_command
from tools.studies import costs


def main(_: list[str]) -> None:
    order = from_flags(costs.Order)
    if flags.FLAGS.clips:
        order = dataclasses.replace(order, bits_a_pixel=costs.bits_a_pixel(flags.FLAGS.clips))
    figures = costs.budget(order)
    print(costs.table(order, figures), file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    define_flags(costs.Order)
    flags.DEFINE_string(
        "clips", "", "Folder of generated videos to measure --bits_a_pixel on (.gif, .mp4)."
    )
    run_command(main, usage=__doc__)
