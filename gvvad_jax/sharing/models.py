"""Models to and from shared detectors: what Model.save_pretrained and load do."""

import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from gvvad_jax import step
from gvvad_jax.command import UserError
from gvvad_jax.sharing import files, hub
from gvvad_jax.sharing.card import shared_measures

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model


def save(
    model: "Model",
    folder: str | os.PathLike[str],
    license: str,
    data: str,
    measures: Mapping[str, Any] | None,
    name: str = "",
) -> None:
    """Writes a model as a shared detector; see Model.save_pretrained and files.write."""
    _require_plain_scores(model)
    stores = [path for path in model.config.store.split(",") if path]
    own = [model.folder] if model.folder else []
    bank = files.bank_folder([*own, *stores], model.manifest)
    files.write(folder, _shared(model, license, data, measures), name=name, bank_folder=bank)


def push(
    model: "Model",
    repo_id: str,
    license: str,
    data: str,
    measures: Mapping[str, Any] | None,
    **upload: Any,
) -> str:
    """Uploads a model; see Model.push_to_hub and hub.push."""
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / "model"
        save(model, folder, license, data, measures, f"{hub.PREFIX}{repo_id}")
        return hub.push(folder, repo_id, **upload)


def is_shared(name: str | os.PathLike[str]) -> bool:
    """Returns whether `gv.load` was given a shared detector, not a run."""
    return hub.is_name(name) or files.is_shared(name)


def load(name: str | os.PathLike[str], checkpoint: str) -> tuple[files.Shared, pathlib.Path]:
    """Loads a shared detector.

    Args:
      name: its folder, or "hf:USER/NAME[@REVISION]".
      checkpoint: last; it has no others.

    Returns:
      The detector and the folder of its files.
    """
    if checkpoint != "last":
        raise UserError(
            f"{name}: expected no choice of a checkpoint, found {checkpoint}; a shared detector "
            "has one: leave it out"
        )
    folder = hub.fetch(str(name)) if hub.is_name(name) else pathlib.Path(name)
    return files.read(folder), folder


def _require_plain_scores(model: "Model") -> None:
    """Raises UserError for a model that scores otherwise than its weights do.

    What a camera's feedback adds to the scores isn't among the files.
    """
    plain = step.make_score_step(model.config)
    if model.score_step is plain:
        return
    visual, text = np.ones((1, 1, 8, model.manifest.dim), np.float32), None
    if model.config.uses_text and model.manifest.text:
        text = np.ones((1, 8, model.manifest.text["dim"]), np.float32)
    arguments = (model.variables, visual, text, None)
    if not np.array_equal(model.score_step(*arguments), plain(*arguments)):
        raise UserError(
            "model: expected one that scores by its weights alone, found one with a correction "
            "learned from feedback, which isn't shared; share the run's own detector"
        )


def _shared(
    model: "Model", license: str, data: str, measures: Mapping[str, Any] | None
) -> files.Shared:
    facts = msgspec.structs.replace(
        model.facts,
        license=license or model.facts.license,
        data=data or model.facts.data,
        measures=shared_measures(measures) if measures else model.facts.measures,
    )
    return files.Shared(
        config=model.config,
        manifest=model.manifest,
        standard=model.standard,
        seen=model.seen,
        variables=model.variables,
        calibration=model.calibration,
        facts=facts,
    )
