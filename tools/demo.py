"""The demo: do generated videos help a detector when real anomalies are rare?

    python -m tools.demo --flagfile=configs/demo.flags --out=DIR

Renders footage with few abnormal videos, runs the pipeline, and trains the same detector on
real videos only, with generated ones as published, and with generated ones by the flags given, over
paired seeds; measures frames of held-out footage beside rules that learn nothing. Prints the
finding and a table on standard output, and writes them with videos and their score curves into
DIR/demo.html. Repeating the command resumes the demo, whatever stopped it; a finished run is a
folder DIR/runs/ARM-SEED with a result.json from the same flags. DIR/logs has what the processes
print.
"""

import dataclasses

from absl import flags

from generation import pipeline
from generation.ranks import WorkerOptions
from gvvad_jax.command import define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig
from gvvad_jax.store.files import write_atomically
from tools.pages import demo as demo_page
from tools.studies import arms, findings


def main(_: list[str]) -> None:
    data = pipeline.settings_from_flags()
    demo = arms.DemoRun(
        # The demo's own processes share the pipeline's work.
        data=dataclasses.replace(data, workers=WorkerOptions()),
        train=from_flags(TrainConfig),
        seeds=flags.FLAGS.seeds,
        real_abnormal=flags.FLAGS.real_abnormal,
        workers=data.workers.workers,
    )
    result, videos = arms.run(demo)
    page = demo.folder / "demo.html"
    write_atomically(page, demo_page.page(result, videos).encode())
    print(findings.table(result))
    print(page)


if __name__ == "__main__":
    # Stores, folders and seeds are those of each run.
    own = ("store", "synthetic_store", "synthetic_keep", "workdir", "seed", *pipeline.SET_HERE)
    define_flags(*pipeline.SECTIONS.values(), TrainConfig, set_here=own)
    flags.DEFINE_integer("seeds", 3, "Number of runs of each arm, one a seed.", 1)
    flags.DEFINE_integer(
        "real_abnormal",
        None,
        "Abnormal videos among the rendered training footage, drawn at random (default: one a "
        "pair).",
        1,
    )
    flags.FLAGS.set_default("workers", 0)
    run_command(main, usage=__doc__)
