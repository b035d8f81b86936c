"""Records what a change of structure must not change, so that two versions can be compared.

    python -m tests.support.oracle FOLDER > before.json      # in one checkout
    python -m tests.support.oracle FOLDER > after.json       # in the other
    diff before.json after.json

The record holds the names and defaults of every command's flags, the golden files' errors, and the
digests of a tiny pipeline: descriptions, stores, decisions, the metrics of every training step
(norms of gradients and parameters among them), the test measures, and every frame score. Only
commands are called, so the record does not depend on how the code is laid out.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

COMMANDS = (
    "gvvad_jax.train", "gvvad_jax.evaluate", "gvvad_jax.score", "generation.prompts",
    "generation.videos", "generation.encode", "generation.filter", "generation.pipeline",
    "tools.demo", "tools.study", "tools.bench", "tools.bench_encode", "tools.check_world",
    "tools.filter_report", "tools.filter_suite", "tools.generation_budget",
    "tools.import_checkpoint", "tools.import_truth", "tools.reference_step",
)  # fmt: skip
# Runs a command's module up to the parsing of its flags, and prints the command's own.
SHOW_FLAGS = """
import json, runpy, sys
from absl import flags
from gvvad_jax import command

def show(main, *, usage, **_):
    own = flags.FLAGS.flags_by_module_dict()
    mine = {f.name: f for name, fs in own.items() for f in fs if not name.startswith("absl")}
    print(json.dumps({name: flag.default for name, flag in mine.items()}, sort_keys=True))
    sys.exit(0)

command.run_command = show
sys.argv = [sys.argv[1]]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
PIPELINE = ("--train_pairs=3", "--test_pairs=2", "--generated_pairs=3", "--random_drops=1",
            "--fps_policy=5", "--defect_share=0.5")  # fmt: skip
TRAIN = ("--segments=8", "--mtn_channels=8", "--head_widths=16,8", "--body_width=16",
         "--memory_rows=20", "--batch_size=4", "--steps=6", "--log_every=1", "--validate_every=3",
         "--checkpoint_every=3")  # fmt: skip
RUNS = {
    "lap": (),
    "rtfm": ("--fidelity=reference", "--mixup=0.5", "--ema=0.9"),
    "tevad": ("--fusion=add", "--lambda_mode=sigmoid", "--synthetic_share=0.5"),
    "ur_dmu": ("--lambda_mode=uncertainty", "--train_crops=1", "--log_gradients"),
    "mil_rank": ("--lambda_mode=meta", "--real_share=0.8", "--parallel=pmap"),
}


def run(*arguments: str) -> str:
    """The standard output of `python ARGUMENTS`."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{arguments[:2]}: {done.stderr[-2000:]}")
    return done.stdout


def digest(*paths: pathlib.Path) -> str:
    """One digest of several files' names and bytes."""
    result = hashlib.sha256()
    for path in sorted(paths):
        result.update(f"{path.name}\n".encode() + path.read_bytes())
    return result.hexdigest()[:16]


def pipeline(folder: pathlib.Path) -> dict:
    """Digests of the stages from descriptions to decisions."""
    out = folder / "pipeline"
    run("-m", "generation.pipeline", *PIPELINE, f"--out={out}")
    stores = {
        name: digest(*(out / name).glob("shard-*"), out / name / "manifest.json")
        for name in ("real", "synthetic")
    }
    files = ("prompts.jsonl", "decisions.jsonl", "decisions-random-0.jsonl")
    return stores | {name: digest(out / name) for name in files if (out / name).exists()}


def training(folder: pathlib.Path, detector: str) -> dict:
    """Metrics of every step, test measures and frame scores of one short run."""
    data, workdir = folder / "pipeline", folder / detector
    run(
        "-m", "gvvad_jax.train", f"--detector={detector}", f"--workdir={workdir}", *TRAIN,
        f"--store={data / 'real'}", f"--synthetic_store={data / 'synthetic'}",
        f"--synthetic_keep={data / 'decisions.jsonl'}", *RUNS[detector],
    )  # fmt: skip
    result = json.loads((workdir / "result.json").read_text())
    del result["provenance"]
    scores = folder / f"{detector}.npz"
    source = (f"--workdir={workdir}", f"--store={data / 'real'}")
    run("-m", "gvvad_jax.score", *source, f"--out={scores}")
    with np.load(scores) as arrays:
        frames = hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays)))
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    timeless = [
        {k: v for k, v in json.loads(line).items() if "second" not in k and "time" not in k}
        for line in lines
    ]
    return {
        "steps": timeless,
        "result": result,
        "evaluate": json.loads(run("-m", "gvvad_jax.evaluate", *source)),
        "scores": frames.hexdigest()[:16],
    }


def main(folder: str) -> None:
    root = pathlib.Path(folder)
    root.mkdir(parents=True)
    record = {"flags": {c: json.loads(run("-c", SHOW_FLAGS, c)) for c in COMMANDS}}
    goldens = sorted(pathlib.Path("tests/golden").glob("*.npz"))
    record["goldens"] = {
        path.name: json.loads(
            run("-m", "tools.reference_step", f"--golden={path}").splitlines()[-1]
        )
        for path in goldens
    }
    record["pipeline"] = pipeline(root)
    record["runs"] = {detector: training(root, detector) for detector in RUNS}
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
