"""What every exported detector takes and gives, whatever its format."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.scoring import Model

VISUAL, TEXT, SCORES = "visual", "text", "scores"
# Of random features, in standard deviations of those of training.
SCALES = (1.0, 0.1, 0.03, 0.01)


@dataclasses.dataclass(frozen=True)
class Contract:
    """Arrays of one video: raw features in, as the encoder gives them, and scores out.

    Attributes:
      crops: N crops of a visual row.
      dim: D, its width.
      text_dim: E, the width of a text row; None for a detector without text.
    """

    crops: int
    dim: int
    text_dim: int | None

    @classmethod
    def of(cls, model: Model) -> "Contract":
        """Returns the contract of a model; raises UserError where its crops aren't known."""
        crops = model.manifest.crops["count"]
        if crops == "unknown":
            raise UserError(
                "--workdir: expected a detector whose crops are known, found an imported one that "
                "doesn't say; import the checkpoint again with --num_crops"
            )
        text = model.manifest.text if model.config.uses_text else None
        return cls(crops, model.manifest.dim, int(text["dim"]) if text else None)

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Returns the inputs by name: their axes after the first, which is T snippets."""
        visual = {VISUAL: (self.crops, self.dim)}
        return visual if self.text_dim is None else visual | {TEXT: (self.text_dim,)}

    def describe(self) -> dict[str, Any]:
        """Returns inputs and outputs as the metadata names them."""
        return {
            "inputs": {name: ["T", *axes] for name, axes in self.inputs().items()},
            "outputs": {SCORES: ["T"]},
            "dtype": "float32",
        }


def random_videos(model: Model, lengths: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
    """Yields random features of videos of each length, around the mean of those of training.

    Far from it a detector may score 1 everywhere, which would compare nothing.
    """
    rng = np.random.default_rng(0)
    standard, inputs = model.standard, Contract.of(model).inputs()
    for length, scale in itertools.product(lengths, SCALES):
        arrays = {
            name: scale * rng.normal(size=(length, *axes)).astype(np.float32)
            for name, axes in inputs.items()
        }
        if standard.mean_D is not None and standard.std_D is not None:
            arrays[VISUAL] = arrays[VISUAL] * standard.std_D + standard.mean_D
        yield {name: array.astype(np.float32) for name, array in arrays.items()}


def metadata(model: Model, name: str, format: str) -> dict[str, Any]:
    """Returns what whoever runs an exported file must know about its features and scores.

    Args:
      model: the detector.
      name: its folder or Hub name as it was given, for people; only its last part is kept.
      format: stablehlo or onnx.
    """
    manifest, calibration = model.manifest, model.calibration
    threshold = calibration.threshold if calibration else None
    return {
        "format": format,
        "detector": model.config.detector,
        "name": name.rstrip("/").rpartition("/")[2],
        **Contract.of(model).describe(),
        "scores": "one a snippet, in [0, 1]; higher is more abnormal",
        "standardised_inside": model.standard.mean_D is not None,
        "encoder": dict(manifest.encoder),
        "crops": dict(manifest.crops),
        "snippet": dict(manifest.snippet),
        "fps_policy": manifest.fps_policy,
        "text": dict(manifest.text) if manifest.text and model.config.uses_text else None,
        "causal_window": model.config.causal_window,
        "top_k": model.config.top_k,
        "temperature": calibration.temperature if calibration else None,
        "threshold": dataclasses.asdict(threshold) if threshold else None,
        "license": model.facts.license or None,
    }
