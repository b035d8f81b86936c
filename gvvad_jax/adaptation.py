"""What fits a trained detector to one camera: a file of its own, which a run is scored with.

`python -m tools.calibrate` writes it, and `--adaptation=FILE` applies it to a run, whose folder
stays as it is. docs/calibration.md is for users.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from gvvad_jax.calibration import Calibration
from gvvad_jax.command import UserError
from gvvad_jax.events import Threshold
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.store import digests
from gvvad_jax.store.files import load_arrays, read_json_as, write_arrays, write_json

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model

_REMEDY = "make it again with gvvad calibrate"
# What scores' logits are cut to before something is added: those of 1e-6 and 1 - 1e-6.
_NEAREST = 1e-6


class Statistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean and standard deviation of each visual feature [D]."""

    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, standard: Standardisation) -> "Statistics":
        """Returns the statistics as lists."""
        content = standard.to_json()
        assert content is not None
        return cls(**content)

    def standardisation(self) -> Standardisation:
        """Returns the statistics as arrays."""
        return Standardisation(np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32))


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another threshold that the camera's normal footage supports, and its rate of alarms."""

    threshold: float
    alarms_per_hour: float


@dataclasses.dataclass(frozen=True, eq=False)
class Correction:
    """What feedback adds to the logits of scores: weights @ standardised features + bias.

    Attributes:
      weights_D: float32; of the mean over crops.
      bias: a number.
    """

    weights_D: np.ndarray
    bias: float


class CorrectionFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a correction lies, and what it rests on.

    Attributes:
      file: name of the .npz with its `weights` and `bias`, in the adaptation's folder.
      sha256: digest of that file.
      feedback: what it rests on, and what it gained on held-out videos; see tools.adapting.tuning.
    """

    file: str
    sha256: str
    feedback: dict[str, Any]


class Adaptation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of an adaptation's file.

    Attributes:
      format_version: 1.
      run: `fingerprint` of the detector that it belongs to.
      standardisation: what visual features are standardised by; None for the run's.
      features: mean and deviation of the camera's normal footage, which later footage is compared
        with; see drift.
      threshold: of events.
      rates: thresholds of other rates, the rarest alarms first.
      temperature: divides the logit of a video score; None where the run's isn't valid any more.
      temperature_reason: why there is none; None where there is one.
      footage: what it rests on, for people.
      correction: learned from feedback.
    """

    format_version: Literal[1]
    run: str
    standardisation: Statistics | None
    features: Statistics
    threshold: Threshold
    rates: list[Rate]
    temperature: float | None
    temperature_reason: str | None
    footage: dict[str, Any]
    correction: CorrectionFile | None = None


def fingerprint(model: "Model") -> str:
    """Returns the digest of a detector: its kind, weights and standardisation.

    It is the same wherever the detector lies, and whatever it was calibrated to.
    """
    digest = hashlib.sha256(model.config.detector.encode())
    arrays = (model.variables, model.standard.mean_D, model.standard.std_D)
    for place, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        values = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{jax.tree_util.keystr(place)} {values.dtype} {values.shape}\n".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read(path: str | os.PathLike[str]) -> Adaptation:
    """Reads an adaptation's file; raises UserError for anything else."""
    found = read_json_as(path, Adaptation, "an adaptation to a camera", _REMEDY)
    for where, statistics in (
        ("features", found.features),
        ("standardisation", found.standardisation),
    ):
        if statistics and not (
            len(statistics.mean) == len(statistics.std) and min(statistics.std, default=0) > 0
        ):
            raise UserError(
                f"{path}: {where}: expected as many deviations above 0 as means, found others; "
                f"{_REMEDY}"
            )
    return found


def apply(model: "Model", path: str | os.PathLike[str]) -> "Model":
    """Returns a detector that is adapted to a camera.

    Args:
      model: the detector that the adaptation was made for, as `scoring.load` gives it.
      path: the adaptation's file, of tools.calibrate.

    Returns:
      The detector with the camera's standardisation, threshold and temperature, and with what was
      learned from feedback, if there is any.

    Raises:
      UserError: no such file, a damaged one, or one of another detector.
    """
    found = read(path)
    own = fingerprint(model)
    if found.run != own:
        raise UserError(
            f"{path}: expected an adaptation of this run and checkpoint ({own[:12]}), found one of "
            f"another ({found.run[:12]}); make one with gvvad calibrate"
        )
    dim = model.manifest.dim
    for where, each in (("features", found.features), ("standardisation", found.standardisation)):
        if each and len(each.mean) != dim:
            raise UserError(
                f"{path}: {where}: expected statistics of {dim} features, found {len(each.mean)}; "
                f"{_REMEDY}"
            )
    return adapted(model, found, _read_correction(found, path, dim) if found.correction else None)


def adapted(model: "Model", found: Adaptation, correction: Correction | None) -> "Model":
    """Returns a detector with an adaptation's values and a correction."""
    standard = found.standardisation
    step = 0
    if model.calibration:
        step = model.calibration.step
    return dataclasses.replace(
        model,
        # Commands take the config's rate by default.
        config=dataclasses.replace(model.config, alarms_per_hour=found.threshold.asked),
        standard=standard.standardisation() if standard else model.standard,
        seen=found.features.standardisation(),
        calibration=Calibration(
            step=step,
            temperature=found.temperature,
            temperature_reason=found.temperature_reason,
            threshold=found.threshold,
        ),
        normal_videos={},
        score_step=corrected(model.score_step, correction) if correction else model.score_step,
    )


def corrected(
    score_step: Callable[..., jax.Array], correction: Correction
) -> Callable[..., jax.Array]:
    """Returns a scoring step, of step.make_score_step, whose scores are corrected."""

    @jax.jit
    def add(scores_VxT: jax.Array, visual_VxNxTxD: jax.Array) -> jax.Array:
        cut_VxT = jnp.clip(scores_VxT, _NEAREST, 1 - _NEAREST)
        added_VxT = jnp.mean(visual_VxNxTxD, axis=1) @ correction.weights_D + correction.bias
        return jax.nn.sigmoid(jnp.log(cut_VxT / (1 - cut_VxT)) + added_VxT)

    def score(variables: Any, visual: Any, text: Any, mask: Any) -> jax.Array:
        return add(score_step(variables, visual, text, mask), visual)

    return score


def write(
    path: str | os.PathLike[str],
    content: Adaptation,
    correction: Correction | None = None,
    feedback: dict[str, Any] | None = None,
) -> None:
    """Writes an adaptation's file, and beside it the .npz of a correction.

    Args:
      path: the file.
      content: the adaptation, without a correction.
      correction: what was learned from feedback.
      feedback: see CorrectionFile.
    """
    path = pathlib.Path(path)
    if correction:
        beside = correction_path(path)
        arrays = {"weights": correction.weights_D, "bias": np.array(correction.bias, np.float64)}
        write_arrays(beside, arrays)
        file = CorrectionFile(beside.name, digests.of_file(beside), feedback or {})
        content = msgspec.structs.replace(content, correction=file)
    write_json(path, msgspec.to_builtins(content))


def correction_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns where the correction of an adaptation's file lies."""
    return pathlib.Path(path).with_suffix(".correction.npz")


def _read_correction(found: Adaptation, path: str | os.PathLike[str], dim: int) -> Correction:
    assert found.correction is not None
    name = found.correction.file
    if pathlib.PurePath(name).name != name:
        raise UserError(
            f"{path}: correction.file: expected a name without a folder, found {name!r}; {_REMEDY}"
        )
    file, expected = pathlib.Path(path).with_name(name), f"what {path} learned from feedback"
    arrays = load_arrays(file, expected)
    weights_D, bias = arrays.get("weights"), arrays.get("bias")
    if (
        digests.of_file(file) != found.correction.sha256
        or weights_D is None
        or bias is None
        or (weights_D.shape, bias.shape) != ((dim,), ())
        or weights_D.dtype.kind != "f"
        or not (np.isfinite(weights_D).all() and np.isfinite(bias))
    ):
        raise UserError(f"{file}: expected {expected}, found another file; {_REMEDY}")
    return Correction(weights_D.astype(np.float32), float(bias))
