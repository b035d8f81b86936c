"""The demo: does training on generated videos help, and does filtering them?

    python -m tools.demo --flagfile=configs/demo.flags --out=DIR

Runs generation.pipeline, trains the same detector in five arms over paired seeds, measures frames
of held-out footage, and compares with rules that learn nothing. Prints the table on standard output
and writes it with score curves into DIR/demo.html. Repeating the command resumes the demo; a
finished run is a folder DIR/runs/ARM-SEED with a result.json from the same flags.
"""

from absl import flags

from generation import pipeline
from gvvad_jax.command import define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig
from tools.studies import arms, tables


def main(_: list[str]) -> None:
    demo = arms.DemoRun(
        data=pipeline.settings_from_flags(),
        train=from_flags(TrainConfig),
        seeds=flags.FLAGS.seeds,
    )
    result = arms.run(demo)
    print(tables.arms_table(result))
    if result["rendered"]:
        print("The footage is RENDERED by the built-in world: no number here is about real video.")
    print(demo.folder / "demo.html")


if __name__ == "__main__":
    define_flags(*pipeline.SECTIONS.values(), TrainConfig)
    flags.DEFINE_integer("seeds", 4, "Number of runs of each arm, one a seed.", 1)
    run_command(main, usage=__doc__)
