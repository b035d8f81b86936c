"""What precision costs in AUC: bfloat16 steps, float16 stores. Part of tools.bench."""

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from gvvad_jax.config import TrainConfig
from gvvad_jax.store.reader import Store


def as_float16(path: str, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a store with rows of float16."""
    from gvvad_jax.store.writer import StoreWriter

    opened = Store(path)
    manifest = dataclasses.replace(opened.manifest, dtype="float16")
    writer = StoreWriter(folder, manifest, opened.videos)
    for video_id, row in opened.rows.items():
        writer.add(row, opened.visual(video_id).astype("float16"), opened.text(video_id))
    writer.pack()
    for name in ("bank.npy", "bank.json"):
        if (opened.path / name).exists():
            (folder / name).write_bytes((opened.path / name).read_bytes())
    return folder


def measure(path: str, folder: pathlib.Path, seeds: int, steps: int) -> dict[str, Any]:
    """Frame AUC of LAP trained on a store in float32, in bfloat16, and on the store in float16.

    Args:
      path: a store with training and test videos.
      folder: an empty one, for runs.
      seeds: of each way, the same for all.
      steps: of each run.
    """
    from gvvad_jax.training import train

    half = str(as_float16(path, folder / "float16"))
    ways = {
        "float32": {"store": path},
        "bfloat16 steps": {"store": path, "precision": "bfloat16"},
        "float16 store": {"store": half},
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(seeds):
        for name, changes in ways.items():
            config = TrainConfig(
                seed=seed,
                steps=steps,
                batch_size=16,
                segments=32,
                validate_every=steps,
                checkpoint_every=steps,
                workdir=str(folder / f"{name.replace(' ', '-')}-{seed}"),
                **changes,
            )
            found[name].append(train(config)["last"]["auc"])
    plain = found["float32"]
    return {name: _summary(aucs, plain) for name, aucs in found.items()}


def _summary(aucs: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    """Mean and spread over seeds, and of the paired difference to float32."""
    differences = [mine - theirs for mine, theirs in zip(aucs, plain, strict=True)]
    return {
        "auc": statistics.mean(aucs),
        "deviation": statistics.stdev(aucs),
        "difference": statistics.mean(differences),
        "difference_deviation": statistics.stdev(differences),
        "aucs": list(aucs),
    }
