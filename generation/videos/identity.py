"""Identify the weights that a model folder or Hub id stands for, without loading them.

Settings name a model, but its weights may be replaced between two runs. Without this check, videos
of old and new weights would be mixed in one folder.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from generation.videos import loading
from gvvad_jax.command import UserError
from gvvad_jax.store import digests

_END_BYTES = 1 << 20  # of a file of weights


def _digest(folder: pathlib.Path, index: Mapping[str, Any]) -> str:
    """Returns the digest of model_index.json and of all files of the components it lists."""
    paths = [folder / "model_index.json"]
    for component in sorted(folder.iterdir()):
        if isinstance(index.get(component.name), list | tuple) and component.is_dir():
            paths += sorted(path for path in component.rglob("[!.]*") if path.is_file())
    files = [
        [path.relative_to(folder).as_posix(), digests.of_ends(path, _END_BYTES)] for path in paths
    ]
    return digests.of_json(files, sort_keys=False)


def identify(
    model: str, revision: str | None = None, recorded: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns what distinguishes a model's weights from any others.

    Args:
      model: Hub id or local folder.
      revision: branch, tag or commit on the Hub.
      recorded: what this function returned for the first videos of the set. A Hub id stays at
        that commit, even if its branch has moved.

    Returns:
      {model, commit, digest}: a Hub id has a commit, a folder has a digest; the other is None.

    Raises:
      UserError: there is no pipeline, or its weights are not the recorded ones.
    """
    import diffusers

    recorded_commit = recorded.get("commit") if isinstance(recorded, Mapping) else None
    commit = digest = None
    with loading.explained(model):
        if os.path.isdir(model):
            index = diffusers.DiffusionPipeline.load_config(model)
            digest = _digest(pathlib.Path(model), index)
        else:
            _, commit = diffusers.DiffusionPipeline.load_config(
                model, revision=recorded_commit or revision, return_commit_hash=True
            )
    weights = {"model": model, "commit": commit, "digest": digest}
    check(recorded, weights)
    return weights


def check(recorded: Any, weights: Mapping[str, Any]) -> None:
    """Raises UserError if a set was begun with other weights; `recorded` is from its JSON."""
    if recorded is None:
        return
    then, now = (
        str((each.get("commit") or each.get("digest")) if isinstance(each, Mapping) else each)
        for each in (recorded, weights)
    )
    if then != now:
        raise UserError(
            f"--model: expected the weights of {weights['model']!r} that these videos were begun "
            f"with ({then[:12]}), found others ({now[:12]}); give another --out or the old weights"
        )
