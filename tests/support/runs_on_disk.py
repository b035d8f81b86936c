"""Folders of runs as training leaves them, without checkpoints."""

import json

LOG = [
    {"step": 10, "loss": 2.0, "lambda": 0.5, "grad_norm": 3.0, "triplet": 0.0},
    {"step": 10, "validation_auc": 0.75, "validation_loss": None},
    {"step": 20, "loss": 1.0, "lambda": 0.5, "grad_norm": 1.0, "triplet": 0.0},
]


def write_run(folder, flags="", result=None, stores=("s" * 64,), log=LOG):
    """The folder of a run as training leaves it, without a checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.flags").write_text(f"--store=gone/real\n{flags}")
    (folder / "begun.json").write_text(json.dumps({"stores": stores, "splits": "0" * 64}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if result is not None:
        (folder / "result.json").write_text(json.dumps({"steps": 20, "last": result}))
    return folder


def recorded(auc, **more):
    return {"auc": auc, "ap": 0.5, "far": 0.25, "videos": 2, "frames": 8, "per_class": {}} | more
