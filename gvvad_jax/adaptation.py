"""What fits a trained detector to one camera: a file of its own, which a run is scored with.

`python -m tools.calibrate` writes it, and `--adaptation=FILE` applies it to a run, whose folder
stays as it is. docs/calibration.md is for users.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import TYPE_CHECKING, Any, Literal

import jax
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

_REMEDY = "make it again with python -m tools.calibrate"
# The last layer of a head in an adaptation's .npz.
_HEAD = ("bias", "kernel")


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


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A last layer that was tuned on feedback.

    Attributes:
      file: name of the .npz with its `kernel` and `bias`, in the adaptation's folder.
      sha256: digest of that file.
      feedback: what it rests on, and what it gained on held-out parts; see tools.adapting.
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
      head: a last layer tuned on feedback.
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
    head: Head | None = None


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
      The detector with the camera's standardisation, threshold and temperature, and with the last
      layer that was tuned on feedback, if there is one.

    Raises:
      UserError: no such file, a damaged one, or one of another detector.
    """
    found = read(path)
    own = fingerprint(model)
    if found.run != own:
        raise UserError(
            f"{path}: expected an adaptation of this run and checkpoint ({own[:12]}), found one of "
            f"another ({found.run[:12]}); make one with python -m tools.calibrate"
        )
    dim = model.manifest.dim
    for where, each in (("features", found.features), ("standardisation", found.standardisation)):
        if each and len(each.mean) != dim:
            raise UserError(
                f"{path}: {where}: expected statistics of {dim} features, found {len(each.mean)}; "
                f"{_REMEDY}"
            )
    return adapted(model, found, _read_head(found, path) if found.head else None)


def adapted(
    model: "Model", found: Adaptation, head: tuple[np.ndarray, np.ndarray] | None
) -> "Model":
    """Returns a detector with an adaptation's values; `head` is a last layer (kernel, bias)."""
    from gvvad_jax import heads

    standard = found.standardisation
    return dataclasses.replace(
        model,
        # Commands take the config's rate by default.
        config=dataclasses.replace(model.config, alarms_per_hour=found.threshold.asked),
        standard=standard.standardisation() if standard else model.standard,
        seen=found.features.standardisation(),
        calibration=Calibration(
            step=model.calibration.step if model.calibration else 0,
            temperature=found.temperature,
            temperature_reason=found.temperature_reason,
            threshold=found.threshold,
        ),
        normal_videos={},
        variables=heads.replaced(model, *head) if head else model.variables,
    )


def write(
    path: str | os.PathLike[str],
    content: Adaptation,
    head: tuple[np.ndarray, np.ndarray] | None = None,
    feedback: dict[str, Any] | None = None,
) -> None:
    """Writes an adaptation's file, and beside it the .npz of a tuned last layer.

    Args:
      path: the file.
      content: the adaptation, without a head.
      head: the last layer's kernel and bias.
      feedback: see Head.
    """
    path = pathlib.Path(path)
    if head:
        beside = path.with_suffix(".head.npz")
        write_arrays(beside, {"kernel": head[0], "bias": head[1]})
        content = msgspec.structs.replace(
            content, head=Head(beside.name, digests.of_file(beside), feedback or {})
        )
    write_json(path, msgspec.to_builtins(content))


def _read_head(found: Adaptation, path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    assert found.head is not None
    name = found.head.file
    if pathlib.PurePath(name).name != name:
        raise UserError(
            f"{path}: head.file: expected a name without a folder, found {name!r}; {_REMEDY}"
        )
    file = pathlib.Path(path).with_name(name)
    expected = f"the tuned last layer of {path}"
    arrays = load_arrays(file, expected)
    if digests.of_file(file) != found.head.sha256 or sorted(arrays) != list(_HEAD):
        raise UserError(f"{file}: expected {expected}, found another file; {_REMEDY}")
    return arrays["kernel"], arrays["bias"]
