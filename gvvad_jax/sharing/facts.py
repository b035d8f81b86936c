"""What a run's result.json says of a checkpoint, for its model card."""

import pathlib

from gvvad_jax.command import UserError
from gvvad_jax.sharing.card import Facts, shared_measures
from gvvad_jax.store.files import read_json

_PROVENANCE = ("commit", "versions", "stores", "synthetic_store")


def of_run(workdir: pathlib.Path, checkpoint: str, step: int | None) -> Facts:
    """Returns what is known of a checkpoint; without a result, or with an older one, only its step.

    Args:
      workdir: the run's folder.
      checkpoint: last, best_on_validation or best_on_test.
      step: the checkpoint's step.
    """
    bare = Facts(license="", checkpoint=checkpoint, step=step)
    try:
        result = read_json(workdir / "result.json")
        measures, provenance = result.get(checkpoint), result["provenance"]
        measured_at = (measures or {}).get("step", result["steps"])
        kept = {name: provenance[name] for name in _PROVENANCE if provenance.get(name) is not None}
    except (UserError, KeyError, TypeError, AttributeError):
        # A run that isn't finished, or an imported one, has no result; a damaged one isn't needed.
        return bare
    if measured_at != step:
        return bare
    return Facts(
        license="",
        checkpoint=checkpoint,
        step=step,
        measures=shared_measures(measures),
        provenance=kept,
    )
