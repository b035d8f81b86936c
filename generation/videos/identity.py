"""Which weights a model folder or a Hub id stands for today, found without loading them.

Settings name a model; what is behind the name may be replaced between two runs. Clips of old and
new weights in one folder would pass for one set.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from generation.videos import loading
from gvvad_jax.command import UserError
from gvvad_jax.store import digests

_ENDS = 1 << 20  # bytes of a file of weights


def _digest(folder: pathlib.Path, index: Mapping[str, Any]) -> str:
    """Of all files of the components in a pipeline's model_index.json, and of the latter."""
    paths = [folder / "model_index.json"]
    for component in sorted(folder.iterdir()):
        if isinstance(index.get(component.name), list | tuple) and component.is_dir():
            paths += sorted(path for path in component.rglob("[!.]*") if path.is_file())
    files = [[path.relative_to(folder).as_posix(), digests.of_ends(path, _ENDS)] for path in paths]
    return digests.of_json(files, sort_keys=False)


def identify(
    model: str, revision: str | None = None, begun: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What tells a model's weights from any others.

    Args:
      model: Hub id or local folder.
      revision: branch, tag or commit on the Hub.
      begun: what this returned when the first clips were made: a Hub id stays at that commit,
        wherever its branch has gone since.

    Returns:
      {model, commit, digest}: the commit is a Hub id's, the digest a folder's, else None.

    Raises:
      UserError: no pipeline there, or another one than the clips were begun with.
    """
    import diffusers

    begun_at = begun.get("commit") if isinstance(begun, Mapping) else None
    commit = digest = None
    with loading.explained(model):
        if os.path.isdir(model):
            index = diffusers.DiffusionPipeline.load_config(model)
            digest = _digest(pathlib.Path(model), index)
        else:
            _, commit = diffusers.DiffusionPipeline.load_config(
                model, revision=begun_at or revision, return_commit_hash=True
            )
    found = {"model": model, "commit": commit, "digest": digest}
    check(begun, found)
    return found


def check(begun: Any, found: Mapping[str, Any]) -> None:
    """Raises UserError where clips were begun with other weights than are found."""
    if begun is None:
        return
    then, now = (
        str((each.get("commit") or each.get("digest")) if isinstance(each, Mapping) else each)
        for each in (begun, found)
    )
    if then != now:
        raise UserError(
            f"--model: expected the weights of {found['model']!r} that these clips were begun with "
            f"({then[:12]}), found others ({now[:12]}); give another --out or the old weights"
        )
