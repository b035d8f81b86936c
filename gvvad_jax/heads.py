"""The last layer of a detector: its input, and the detector with another one.

Every detector ends in a dense layer of one output, whose sigmoid is the score of a crop.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from gvvad_jax import detectors
from gvvad_jax.command import UserError

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model


def last_layer(model: "Model") -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Returns the place of a detector's last layer, its kernel [C, 1] and its bias [1]."""
    params = traverse_util.flatten_dict(model.variables["params"])
    # Heads name their layers fc1, fc2 ...; UR-DMU's last one is called score.
    place = max(place[:-1] for place in params if re.fullmatch(r"fc\d+|score", place[-2]))
    kernel, bias = (np.asarray(params[(*place, name)]) for name in ("kernel", "bias"))
    assert kernel.shape[1] == 1, place
    return place, kernel, bias


def inputs(model: "Model", visual_TxNxD: np.ndarray, text_TxE: np.ndarray | None) -> np.ndarray:
    """Returns what a detector's last layer gets of a video, float64 [T, N, C].

    Args:
      model: the detector.
      visual_TxNxD: visual features, not standardised.
      text_TxE: text features; None for a detector without text.
    """
    place, _, _ = last_layer(model)
    seen: list[np.ndarray] = []

    def look(next_call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.module.path == place:
            seen.append(np.asarray(args[0], np.float64))
        return next_call(*args, **kwargs)

    detector = detectors.by_name(model.config.detector).Detector(model.config)
    visual_1xNxTxD = model.standard.apply(visual_TxNxD).swapaxes(0, 1)[None]
    text_1xTxE = None if text_TxE is None else np.asarray(text_TxE, np.float32)[None]
    with nn.intercept_methods(look), jax.default_matmul_precision(model.config.matmul_precision):
        detector.apply(model.variables, visual_1xNxTxD, text_1xTxE)
    return seen[0][0].swapaxes(0, 1)


def replaced(model: "Model", kernel_Cx1: np.ndarray, bias_1: np.ndarray) -> Mapping[str, Any]:
    """Returns a detector's variables with another last layer.

    Raises:
      UserError: a layer of another size.
    """
    place, kernel, bias = last_layer(model)
    for name, value, own in (("kernel", kernel_Cx1, kernel), ("bias", bias_1, bias)):
        if value.shape != own.shape or not np.isfinite(value).all():
            raise UserError(
                f"{name}: expected a last layer of finite numbers {list(own.shape)}, found "
                f"{list(value.shape)}; tune it on this run"
            )
    params = traverse_util.flatten_dict(model.variables["params"])
    params[(*place, "kernel")] = jax.numpy.asarray(kernel_Cx1, kernel.dtype)
    params[(*place, "bias")] = jax.numpy.asarray(bias_1, bias.dtype)
    return {**model.variables, "params": traverse_util.unflatten_dict(params)}
