"""Maps PyTorch names and layouts of the published detectors to those of our detectors.

A PyTorch parameter `Aggregate.conv_1.0.weight` [out, in, kernel] is our
params/visual/conv_1/kernel [kernel, in, out]. RTFM, TEVAD and LAP share names; UR-DMU has its own.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors.layers import Outputs

Losses = Mapping[str, jax.Array]

_STREAMS = {"Aggregate": "visual", "Aggregate_text": "text"}
_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
# PyTorch name without its last part -> our path; paths that end in "_norm" are norms.
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


def flax_path(name: str) -> tuple[str, ...] | None:
    """Collection and path of a PyTorch name; None where our detectors have no such parameter."""
    if name in _WHOLE:
        return tuple(_WHOLE[name].split("/"))
    layer, _, leaf = name.rpartition(".")
    for pattern, template in _RULES:
        if match := re.fullmatch(pattern, layer):
            groups = match.groups()
            path = template.format(*groups, stream=_STREAMS.get(groups[0]) if groups else None)
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


def _layout(path: tuple[str, ...], value: np.ndarray, name: str) -> np.ndarray:
    """Brings a PyTorch array into our layout; raises UserError for a wrong rank."""
    is_kernel = path[-1] == "kernel"
    fits = value.size == 1 if path == ("ssls", "lambda") else not is_kernel or value.ndim in (2, 3)
    if is_kernel and value.ndim == 3 and not path[-2].startswith("conv"):
        fits = value.shape[2] == 1
    if not fits:
        raise UserError(f"{name!r}: expected a parameter's rank, found {list(value.shape)}")
    if path == ("ssls", "lambda"):
        return value.reshape(())
    if not is_kernel:
        return value
    if value.ndim == 3 and path[-2].startswith("conv"):
        return value.transpose(2, 1, 0)
    return value.reshape(value.shape[:2]).T


def to_flax(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], list[str]]:
    """Converts a PyTorch state dict (arrays by name) to flax variables.

    Args:
      state: weights, or gradients named and laid out like them.

    Returns:
      ({"params", "batch_stats", "ssls"}, leftovers): `ssls` holds the learned lambda, if any;
      leftovers are names that none of the detectors has. BatchNorm's counters are dropped.
    """
    flat, leftovers = {}, []
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        path = flax_path(name)
        if path is None:
            leftovers.append(name)
        else:
            flat[path] = _layout(path, np.asarray(value), name)
    tree = traverse_util.unflatten_dict(flat)
    return {kind: tree.get(kind, {}) for kind in ("params", "batch_stats", "ssls")}, leftovers


def sizes(state: Mapping[str, np.ndarray], heads: int = 4) -> dict[str, Any]:
    """Reads a detector's sizes from the shapes of its state dict.

    Args:
      state: weights by PyTorch name.
      heads: number of UR-DMU's attention heads, which no shape gives.

    Returns:
      Fields of TrainConfig, and `dim` and `text_dim` of the features (0 where there is no such
      stream). `fusion` is absent where the shapes don't decide it (add and product have the same).

    Raises:
      UserError: it is none of the published detectors, or an array has a wrong rank.
    """
    shapes = {name: np.shape(value) for name, value in state.items()}
    try:
        return _sizes(shapes, heads)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"expected parameters of RTFM, TEVAD, LAP or UR-DMU, whole and in their ranks, found "
            f"{error!r} among them; is this one of their checkpoints?"
        ) from error


def _sizes(shapes: Mapping[str, tuple[int, ...]], heads: int) -> dict[str, Any]:
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
        stream: shapes[f"{name}.conv_1.0.weight"]
        for name, stream in _STREAMS.items()
        if f"{name}.conv_1.0.weight" in shapes
    }
    if not streams or "fc1.weight" not in shapes:
        raise UserError(
            f"expected parameters of RTFM, TEVAD, LAP or UR-DMU, found {sorted(shapes)[:3]} ...; "
            "is this one of their checkpoints?"
        )
    quarter = all(out == max(1, width // 4) for out, width, _ in streams.values())
    dims = {name: shape[1] for name, shape in streams.items()}
    hidden = sorted(n for n in shapes if re.fullmatch(r"fc[1-9]\d*\.weight", n))[:-1]
    fields = {
        "detector": "tevad" if "text" in streams else "rtfm",
        "feature_group": "both" if len(streams) == 2 else next(iter(streams)),
        "mtn_channels": 0 if quarter else next(iter(streams.values()))[0],
        "head_widths": tuple(shapes[name][0] for name in hidden),
        "dim": dims.get("visual", 0),
        "text_dim": dims.get("text", 0),
    }
    if "fc_vis.weight" in shapes:
        fields["fusion"] = "add_up"
    elif "fc0.weight" not in shapes:
        fields["fusion"] = "concat"
    return fields


def require_fit(state: Mapping[str, np.ndarray], params: Any, batch_stats: Any) -> None:
    """Checks that a state dict has every parameter of one of our detectors, in the right shape.

    Args:
      state: arrays by PyTorch name.
      params: parameters of the detector, arrays or their shapes.
      batch_stats: its BatchNorm statistics, likewise.

    Raises:
      UserError: a parameter is missing or has another shape, or there is a layer too many.
    """
    expected = traverse_util.flatten_dict({"params": params, "batch_stats": batch_stats})
    names = {flax_path(name): name for name in state if flax_path(name)}
    missing = ["/".join(path) for path in expected if path not in names]
    if missing:
        raise UserError(
            f"expected {len(expected)} parameters, found {len(missing)} missing, in our names "
            f"{', '.join(missing[:4])}; is it a whole state dict?"
        )
    surplus = [name for path, name in names.items() if path not in expected and path[0] != "ssls"]
    if surplus:
        raise UserError(
            f"expected a detector with fewer layers, found {', '.join(surplus[:4])} too; its sizes "
            "contradict each other"
        )
    for path, wanted in expected.items():
        shape = _layout(path, np.asarray(state[names[path]]), names[path]).shape
        if shape != wanted.shape:
            raise UserError(
                f"{names[path]!r}: expected shape {list(wanted.shape)} (in our layout, by the "
                f"file's other arrays), found {list(shape)}; is it whole?"
            )


def measured(
    config: TrainConfig, out: Outputs, parts: Losses, unweighted: Losses
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Names our outputs and losses of a batch as the goldens do (out/*, loss/*).

    Args:
      config: config of the run.
      out: outputs of the batch's videos in pairs.
      parts: the losses that ssls.scaled_loss returns, and `total`.
      unweighted: mean of each loss term, without its weight.
    """
    if config.detector == "ur_dmu":
        return _ur_dmu_measured(out, parts, unweighted)
    return _mtn_outputs(out, config.top_k), _mtn_losses(parts, unweighted, config)


def _mtn_outputs(out: Outputs, top_k: int) -> dict[str, Any]:
    """Outputs of RTFM, TEVAD and LAP: normal videos first, selections crop-major."""
    from gvvad_jax import losses
    from gvvad_jax.detectors import rtfm

    def halves(pairs_V: np.ndarray) -> np.ndarray:
        return np.concatenate([pairs_V[0::2], pairs_V[1::2]])

    selected_Vxk = np.asarray(rtfm.select(out.features_VxNxTxD, top_k, None, 0.0))
    scores_VxT, features = np.asarray(out.scores_VxT), np.asarray(out.features_VxNxTxD)
    bags_V = np.take_along_axis(scores_VxT, selected_Vxk, 1).mean(axis=1)
    outputs = {
        "snippet_scores": halves(scores_VxT)[..., None],
        "feature_magnitude": halves(np.asarray(losses.norm(out.features_VxNxTxD)).mean(axis=1)),
        "bag_score_normal": bags_V[0::2, None],
        "bag_score_abnormal": bags_V[1::2, None],
    }
    chosen = np.take_along_axis(features, selected_Vxk[:, None, :, None], axis=2)
    for half, name in enumerate(("normal", "abnormal")):
        crop_major = chosen[half::2].swapaxes(0, 1)
        outputs[f"selected_features_{name}"] = crop_major.reshape(-1, *chosen.shape[2:])
    return outputs


def _mtn_losses(parts: Losses, unweighted: Losses, config: TrainConfig) -> dict[str, Any]:
    terms = {
        "smooth": parts["smoothness"],
        "sparsity": parts["sparsity"],
        "cost": parts["cost"],
        "mil_plus_magnitude": parts["bag"] + parts["magnitude"],
        "total": parts["total"],
    }
    if "pseudo" in parts:
        terms["pseudo_anomaly_as_coded"] = unweighted["pseudo"]
        # The published number contains gamma once, the total twice.
        terms["triplet_incl_gamma"] = unweighted["triplet"] * config.triplet_weight
    return terms


def _ur_dmu_measured(
    out: Outputs, parts: Losses, unweighted: Losses
) -> tuple[dict[str, Any], dict[str, Any]]:
    scores_VxT = np.asarray(out.scores_VxT)
    abnormal_VxT = np.asarray(out.extra["abnormal_attention"])[:, 0]
    normal_VxT = np.asarray(out.extra["normal_attention"])[:, 0]
    outputs = {
        "frame": np.concatenate([scores_VxT[0::2], scores_VxT[1::2]]),
        "triplet_margin": unweighted["triplet"],
        "kl_loss": unweighted["kl"],
        "distance": unweighted["distance"],
        "A_att": abnormal_VxT[1::2],
        "N_att": normal_VxT[0::2],
        "A_Natt": abnormal_VxT[0::2],
        "N_Aatt": normal_VxT[1::2],
    }
    terms = {
        "att_loss": unweighted["bag"],
        "A_loss": unweighted["abnormal_seen"],
        "N_Aatt": unweighted["abnormal_unseen"],
        "N_loss": unweighted["normal_seen"],
        "A_Nloss": unweighted["normal_unseen"],
        "triplet": unweighted["triplet"],
        "kl_loss": unweighted["kl"],
        "distance": unweighted["distance"],
        "cost": parts["cost"],
        "total": parts["total"],
    }
    return outputs, terms
