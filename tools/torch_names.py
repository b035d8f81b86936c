"""PyTorch names and layouts of the published detectors, in ours.

A PyTorch parameter `Aggregate.conv_1.0.weight` [out, in, kernel] is our
params/visual/conv_1/kernel [kernel, in, out]. RTFM, TEVAD and LAP share these names.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from gvvad_jax.command import UserError

_STREAMS = {"Aggregate": "visual", "Aggregate_text": "text"}
_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_CONV = re.compile(r"(Aggregate|Aggregate_text)\.conv_(\d)\.(\d)\.(\w+)")
_NON_LOCAL = re.compile(r"(Aggregate|Aggregate_text)\.non_local\.(g|theta|phi|W\.0|W\.1)\.(\w+)")
_LINEAR = re.compile(r"(fc_vis|fc_text|fc\d+)\.(weight|bias)")


def _path(name: str) -> tuple[str, ...] | None:
    """Collection and path of a PyTorch name; None where we have no such thing."""
    if match := _CONV.fullmatch(name):
        stream, number, place, leaf = match.groups()
        layer = f"conv_{number}" if place == "0" else f"conv_{number}_norm"
        return _leaf((_STREAMS[stream], layer), leaf, is_norm=place == "2")
    if match := _NON_LOCAL.fullmatch(name):
        stream, layer, leaf = match.groups()
        layer = {"W.0": "W", "W.1": "W_norm"}.get(layer, layer)
        return _leaf((_STREAMS[stream], "non_local", layer), leaf, is_norm=layer == "W_norm")
    if match := _LINEAR.fullmatch(name):
        layer, leaf = match.groups()
        in_head = layer in ("fc1", "fc2", "fc3")
        return _leaf(("head", layer) if in_head else (layer,), leaf, is_norm=False)
    return None


def _leaf(path: tuple[str, ...], leaf: str, is_norm: bool) -> tuple[str, ...] | None:
    if not is_norm:
        return ("params", *path, "kernel" if leaf == "weight" else leaf)
    if leaf not in _NORM_LEAVES:
        return None  # num_batches_tracked
    collection = "batch_stats" if leaf.startswith("running") else "params"
    return (collection, *path, _NORM_LEAVES[leaf])


def _layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    if value.ndim == 3 and path[-2].startswith("conv"):
        return value.transpose(2, 1, 0)
    return value.reshape(value.shape[:2]).T


def to_flax(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A PyTorch state dict (arrays by name) as flax variables.

    Args:
      state: weights, or anything named and laid out like them (gradients).

    Returns:
      {"params": ..., "batch_stats": ...}, whichever there are.

    Raises:
      UserError: a name that none of the detectors has.
    """
    flat = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        path = _path(name)
        if path is None:
            raise UserError(
                f"parameter {name!r}: expected a name of RTFM, TEVAD or LAP, found another; "
                "is this one of their checkpoints?"
            )
        flat[path] = _layout(path, np.asarray(value))
    return traverse_util.unflatten_dict(flat)
