"""PyTorch names and layouts of the published detectors, in ours.

A PyTorch parameter `Aggregate.conv_1.0.weight` [out, in, kernel] is our
params/visual/conv_1/kernel [kernel, in, out]. RTFM, TEVAD and LAP share names; UR-DMU has its own.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from gvvad_jax.command import UserError

_STREAMS = {"Aggregate": "visual", "Aggregate_text": "text"}
_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
# PyTorch name without its last part -> our path; a name that ends in "_norm" is a norm's.
_RULES = [
    (r"(Aggregate|Aggregate_text)\.conv_(\d)\.0", "{stream}/conv_{1}"),
    (r"(Aggregate|Aggregate_text)\.conv_(\d)\.2", "{stream}/conv_{1}_norm"),
    (r"(Aggregate|Aggregate_text)\.non_local\.(g|theta|phi)", "{stream}/non_local/{1}"),
    (r"(Aggregate|Aggregate_text)\.non_local\.W\.0", "{stream}/non_local/W"),
    (r"(Aggregate|Aggregate_text)\.non_local\.W\.1", "{stream}/non_local/W_norm"),
    (r"(fc[1-9]\d*)", "head/{0}"),
    (r"(fc0|fc_vis|fc_text)", "{0}"),
    # UR-DMU.
    (r"embedding\.conv_1\.0", "body/conv"),
    (r"selfatt\.layers\.(\d+)\.0\.norm", "body/attention_{0}_norm"),
    (r"selfatt\.layers\.(\d+)\.0\.fn\.to_qkv", "body/attention_{0}/to_qkvt"),
    (r"selfatt\.layers\.(\d+)\.0\.fn\.to_out\.0", "body/attention_{0}/to_out"),
    (r"selfatt\.layers\.(\d+)\.1\.norm", "body/mlp_{0}_norm"),
    (r"selfatt\.layers\.(\d+)\.1\.fn\.net\.0", "body/mlp_{0}_in"),
    (r"selfatt\.layers\.(\d+)\.1\.fn\.net\.3", "body/mlp_{0}_out"),
    (r"encoder_(mu|var)\.0", "{0}"),
    (r"cls_head\.mlp\.0", "fc1"),
    (r"cls_head\.mlp\.2", "score"),
]
_WHOLE = {
    "Amemory.memory_block": "params/abnormal_memory/rows",
    "Nmemory.memory_block": "params/normal_memory/rows",
    # The published learnable lambda.
    "VLR": "ssls/lambda",
}


def our_path(name: str) -> tuple[str, ...] | None:
    """Collection and path of a PyTorch name; None where our detectors have no such thing."""
    if name in _WHOLE:
        return tuple(_WHOLE[name].split("/"))
    layer, _, leaf = name.rpartition(".")
    for pattern, ours in _RULES:
        if match := re.fullmatch(pattern, layer):
            groups = match.groups()
            path = ours.format(*groups, stream=_STREAMS.get(groups[0]) if groups else None)
            return _leaf(tuple(path.split("/")), leaf)
    return None


def _leaf(path: tuple[str, ...], leaf: str) -> tuple[str, ...] | None:
    if not path[-1].endswith("_norm"):
        kinds = {"weight": "kernel", "bias": "bias"}
        return ("params", *path, kinds[leaf]) if leaf in kinds else None
    if leaf not in _NORM_LEAVES:
        return None
    collection = "batch_stats" if leaf.startswith("running") else "params"
    return (collection, *path, _NORM_LEAVES[leaf])


def _layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path == ("ssls", "lambda"):
        return value.reshape(())
    if path[-1] != "kernel":
        return value
    if value.ndim == 3 and path[-2].startswith("conv"):
        return value.transpose(2, 1, 0)
    return value.reshape(value.shape[:2]).T


def to_flax(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], list[str]]:
    """A PyTorch state dict (arrays by name) as flax variables.

    Args:
      state: weights, or anything named and laid out like them (gradients).

    Returns:
      ({"params", "batch_stats", "ssls"}, leftovers): `ssls` holds a learned lambda and is empty
      without; leftovers are names that none of the detectors has. Counters of BatchNorm are
      neither.
    """
    flat, leftovers = {}, []
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        path = our_path(name)
        if path is None:
            leftovers.append(name)
        else:
            flat[path] = _layout(path, np.asarray(value))
    tree = traverse_util.unflatten_dict(flat)
    return {kind: tree.get(kind, {}) for kind in ("params", "batch_stats", "ssls")}, leftovers


def sizes(state: Mapping[str, np.ndarray], heads: int = 4) -> dict[str, Any]:
    """What a state dict's shapes say of its detector.

    Args:
      state: weights by PyTorch name.
      heads: UR-DMU's attention heads, which no shape tells.

    Returns:
      Fields of TrainConfig, and `dim` and `text_dim` of the features (0 where there is no such
      stream). `fusion` is absent where shapes leave it open (add and product have the same).

    Raises:
      UserError: none of the published detectors.
    """
    shapes = {name: np.shape(value) for name, value in state.items()}
    if "embedding.conv_1.0.weight" in shapes:
        width, dim, _ = shapes["embedding.conv_1.0.weight"]
        inner = shapes["selfatt.layers.0.0.fn.to_qkv.weight"][0] // 4
        return {
            "detector": "ur_dmu",
            "feature_group": "visual",
            "body_width": width,
            "heads": heads,
            "head_channels": inner // heads,
            "memory_rows": shapes["Amemory.memory_block"][0],
            "head_widths": (shapes["cls_head.mlp.0.weight"][0],),
            "dim": dim,
            "text_dim": 0,
        }
    streams = {
        ours: shapes[f"{theirs}.conv_1.0.weight"]
        for theirs, ours in _STREAMS.items()
        if f"{theirs}.conv_1.0.weight" in shapes
    }
    if not streams or "fc1.weight" not in shapes:
        raise UserError(
            f"expected parameters of RTFM, TEVAD, LAP or UR-DMU, found {sorted(shapes)[:3]} ...; "
            "is this one of their checkpoints?"
        )
    quarter = all(out == max(1, width // 4) for out, width, _ in streams.values())
    dims = {name: shape[1] for name, shape in streams.items()}
    hidden = sorted(n for n in shapes if re.fullmatch(r"fc[1-9]\d*\.weight", n))[:-1]
    found = {
        "detector": "tevad" if "text" in streams else "rtfm",
        "feature_group": "both" if len(streams) == 2 else next(iter(streams)),
        "mtn_channels": 0 if quarter else next(iter(streams.values()))[0],
        "head_widths": tuple(shapes[name][0] for name in hidden),
        "dim": dims.get("visual", 0),
        "text_dim": dims.get("text", 0),
    }
    if "fc_vis.weight" in shapes:
        found["fusion"] = "add_up"
    elif "fc0.weight" not in shapes:
        found["fusion"] = "concat"
    return found
