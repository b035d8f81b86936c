"""What is cheaper costs in AUC: bfloat16 steps, float16 stores, one crop, the crops' mean."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.config import TrainConfig
from gvvad_jax.store.reader import Store
from tools.studies.statistics import mean_sd


def as_float16(path: str, folder: pathlib.Path) -> pathlib.Path:
    """Copies a store with its rows as float16; returns the folder."""
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
    """Measures the frame AUC of LAP trained in float32, in bfloat16, and on a float16 store.

    Args:
      path: store with training and test videos.
      folder: empty folder for the runs.
      seeds: number of runs of each variant; all variants use the same seeds.
      steps: training steps of each run.

    Returns:
      {variant: {"auc", "deviation", "difference", "difference_deviation", "aucs"}}, means
      and standard deviations over seeds, and of the paired difference to float32.
    """
    from gvvad_jax.training import fit

    half = str(as_float16(path, folder / "float16"))
    variants = {
        "float32": {"store": path},
        "bfloat16 steps": {"store": path, "precision": "bfloat16"},
        "float16 store": {"store": half},
    }
    aucs: dict[str, list[float]] = {name: [] for name in variants}
    for seed in range(seeds):
        for name, changes in variants.items():
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
            measures = fit(config).last
            assert measures and measures["auc"] is not None, f"{path}: no measured test videos"
            aucs[name].append(measures["auc"])
    return {name: _summary(values, aucs["float32"]) for name, values in aucs.items()}


def crops(path: str, folder: pathlib.Path, seeds: int, settings: Mapping[str, Any]) -> dict:
    """Measures the frame AUC with all crops and with one a step, scored by all and by their mean.

    Args:
      path: store of several crops, with training and test videos.
      folder: empty folder for the runs.
      seeds: number of runs of each variant; all variants use the same seeds.
      settings: of the runs, of TrainConfig.

    Returns:
      As `measure`; the difference is to all crops in both.
    """
    from gvvad_jax import scoring
    from gvvad_jax.training import fit
    from tools.bench.evaluation import with_config

    aucs: dict[str, list[float]] = {}
    for seed in range(seeds):
        for train_crops in (0, 1):
            workdir = str(folder / f"{train_crops}-{seed}")
            fit(TrainConfig(
                store=path, workdir=workdir, seed=seed, train_crops=train_crops,
                validation_share=0.0, **settings,
            ))  # fmt: skip
            model = scoring.load(workdir)
            for how in ("all", "mean"):
                config = dataclasses.replace(model.config, score_crops=how)
                auc = with_config(model, config).evaluate(path)["auc"]
                assert auc is not None, f"{path}: no measured test videos"
                trained = "one crop a step" if train_crops else "all crops a step"
                aucs.setdefault(f"{trained}, scored by {how}", []).append(auc)
    baseline = aucs["all crops a step, scored by all"]
    return {name: _summary(values, baseline) for name, values in aucs.items()}


def _summary(aucs: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    auc, deviation = mean_sd(aucs)
    difference, difference_deviation = mean_sd(np.subtract(aucs, baseline))
    return {
        "auc": auc,
        "deviation": deviation,
        "difference": difference,
        "difference_deviation": difference_deviation,
        "aucs": list(aucs),
    }
