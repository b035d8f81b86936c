"""The last layer of a detector: its input, and the detector with another one.

Every detector ends in a dense layer of one output, whose sigmoid is the score of a crop.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from gvvad_jax import detectors, scoring
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.scoring import Model


def last_layer(model: Model) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Returns the place of a detector's last layer, its kernel [C, 1] and its bias [1]."""
    params = traverse_util.flatten_dict(model.variables["params"])
    # Heads name their layers fc1, fc2 ...; UR-DMU's last one is called score.
    place = max(place[:-1] for place in params if re.fullmatch(r"fc\d+|score", place[-2]))
    kernel, bias = (np.asarray(params[(*place, name)]) for name in ("kernel", "bias"))
    assert kernel.shape[1] == 1, place
    return place, kernel, bias


def inputs(model: Model, visual_TxNxD: np.ndarray, text_TxE: np.ndarray | None) -> np.ndarray:
    """Returns what a detector's last layer gets of a video, float64 [T, N, C].

    Args:
      model: the detector.
      visual_TxNxD: visual features, not standardised.
      text_TxE: text features; None for a detector without text.
    """
    length = len(visual_TxNxD)
    # Videos of similar length share a compiled program; padding changes nothing, see scoring.
    is_padded = text_TxE is None or len(text_TxE) == length
    more = scoring.bucket_length(length) - length if is_padded else 0
    visual_SxNxD = np.pad(model.standard.apply(visual_TxNxD), ((0, more), (0, 0), (0, 0)))
    if text_TxE is not None:
        text_TxE = np.pad(np.asarray(text_TxE, np.float32), ((0, more), (0, 0)))[None]
    mask_1xS = (np.arange(length + more) < length).astype(np.float32)[None]
    seen_1xNxSxC = _compiled_inputs(model.config.scoring_program, last_layer(model)[0])(
        model.variables,
        visual_SxNxD.swapaxes(0, 1)[None],
        text_TxE,
        mask_1xS if is_padded else None,
    )
    return np.asarray(seen_1xNxSxC, np.float64)[0].swapaxes(0, 1)[:length]


@functools.lru_cache(maxsize=8)
def _compiled_inputs(program: TrainConfig, place: tuple[str, ...]) -> Callable[..., jax.Array]:
    detector = detectors.by_name(program.detector).Detector(program)

    @jax.jit
    @jax.default_matmul_precision(program.matmul_precision)
    def seen(variables: Any, *features: Any) -> jax.Array:
        layer_inputs: list[jax.Array] = []

        def look(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            if context.module.path == place:
                layer_inputs.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(look):
            detector.apply(variables, *features)
        return layer_inputs[0]

    return seen


def replaced(model: Model, kernel_Cx1: np.ndarray, bias_1: np.ndarray) -> Mapping[str, Any]:
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
