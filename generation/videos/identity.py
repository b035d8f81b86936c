"""Identify the weights that a model folder or Hub id stands for, without loading them.

Settings name a model, but its weights may be replaced between two runs, and a folder may be moved.
Weights are known by their content: a commit on the Hub, or the digest of all files of a folder.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from generation.videos import loading, presets
from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from gvvad_jax.store.files import read_json_as


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The content of model.json: what distinguishes a model's weights from any others.

    Attributes:
      model: Hub id or folder, as it was given.
      commit: of a Hub id; else None.
      digest: of a folder; else None.
    """

    model: str
    commit: str | None
    digest: str | None


def _files(folder: pathlib.Path, seen: frozenset[str] = frozenset()) -> Iterator[pathlib.Path]:
    """Yields all files of a folder in order; links, as in the Hub's cache, are followed."""
    real = os.path.realpath(folder)
    if real in seen:  # A link to a folder that it is in.
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, seen | {real})
        else:
            yield path


def _digest(folder: pathlib.Path) -> str:
    """Returns the digest of model_index.json and of all files of the components it lists."""
    try:
        path = folder / "model_index.json"
        index = read_json_as(path, dict[str, Any], "a pipeline's index", "download it again")
    except UserError as error:
        raise UserError(f"--model: expected a diffusers pipeline, found none: {error}") from error
    paths = [folder / "model_index.json"]
    for component in sorted(folder.iterdir()):
        if isinstance(index.get(component.name), list) and component.is_dir():
            paths += _files(component)
    try:
        return digests.of_files(folder, paths)
    except OSError as error:
        raise UserError(
            f"--model: expected all files of {folder}, found one that can't be read "
            f"({error.filename}: {error.strerror}); copy or download it again"
        ) from error


def identify(
    model: str, revision: str | None = None, recorded: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns what distinguishes a model's weights from any others, as `Weights` has it.

    Args:
      model: Hub id or local folder.
      revision: branch, tag or commit on the Hub.
      recorded: what this function returned for the first videos of the set. A Hub id stays at
        that commit, even if its branch has moved.

    Returns:
      {model, commit, digest}.

    Raises:
      UserError: there is no pipeline.
    """
    commit = digest = None
    if os.path.isdir(model):
        digest = _digest(pathlib.Path(model))
    else:
        import diffusers

        with loading.explained(model):
            _, commit = diffusers.DiffusionPipeline.load_config(
                model,
                revision=(recorded or {}).get("commit") or revision,
                return_commit_hash=True,
            )
    return {"model": model, "commit": commit, "digest": digest}


def check(recorded: Mapping[str, Any] | None, weights: Mapping[str, Any]) -> None:
    """Raises UserError if a set was begun with other weights; None was begun with none."""
    if recorded is None:
        return
    then, now = (str(each.get("commit") or each.get("digest")) for each in (recorded, weights))
    if then != now:
        raise UserError(
            f"--model: expected the weights of {recorded.get('model')!r} that these videos were "
            f"begun with ({then[:12]}), found others in {weights['model']!r} ({now[:12]}); give "
            "another --out or the old weights"
        )


def compare(model: str, revision: str | None, recorded: Mapping[str, Any]) -> str:
    """Compares a model with the weights of a set that needs no more videos.

    Returns:
      Why they can't be compared, e.g. because the model's folder is gone; "" if they are equal.

    Raises:
      UserError: the weights are others.
    """
    if recorded["commit"] and presets.hub_id(model) == presets.hub_id(recorded["model"]):
        return ""  # A commit's content can't change.
    try:
        weights = identify(model, revision, recorded)
    except UserError as error:
        return str(error)
    check(recorded, weights)
    return ""
