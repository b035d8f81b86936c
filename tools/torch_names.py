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
from gvvad_jax.config import TrainConfig

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


def _layout(path: tuple[str, ...], value: np.ndarray, name: str) -> np.ndarray:
    """A PyTorch array in our layout; raises UserError where its rank allows none."""
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
            flat[path] = _layout(path, np.asarray(value), name)
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
      UserError: none of the published detectors, or arrays of other ranks than theirs.
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


def require_fit(state: Mapping[str, np.ndarray], params: Any, batch_stats: Any) -> None:
    """Checks that a state dict has every parameter of one of our detectors, in its shape.

    Args:
      state: arrays by PyTorch name.
      params, batch_stats: of the detector, arrays or their shapes.

    Raises:
      UserError: one is missing, of another shape, or a layer too many.
    """
    ours = traverse_util.flatten_dict({"params": params, "batch_stats": batch_stats})
    names = {our_path(name): name for name in state if our_path(name)}
    missing = ["/".join(path) for path in ours if path not in names]
    if missing:
        raise UserError(
            f"expected {len(ours)} parameters, found {len(missing)} missing, in our names "
            f"{', '.join(missing[:4])}; is it a whole state dict?"
        )
    surplus = [name for path, name in names.items() if path not in ours and path[0] != "ssls"]
    if surplus:
        raise UserError(
            f"expected a detector with fewer layers, found {', '.join(surplus[:4])} too; its sizes "
            "contradict each other"
        )
    for path, wanted in ours.items():
        found = _layout(path, np.asarray(state[names[path]]), names[path]).shape
        if found != wanted.shape:
            raise UserError(
                f"{names[path]!r}: expected shape {list(wanted.shape)} (in our layout, by the "
                f"file's other arrays), found {list(found)}; is it whole?"
            )


def measured(
    config: TrainConfig, out: Any, parts: Mapping[str, Any], unweighted: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our outputs and losses of a batch under the names that the goldens have (out/*, loss/*).

    Args:
      config: the run's settings.
      out: detectors.layers.Outputs of the batch's videos in pairs.
      parts: of ssls.scaled_loss, and `total`.
      unweighted: the terms' means by name.
    """
    if config.detector == "ur_dmu":
        return _of_ur_dmu(out, parts, unweighted)
    return _mtn_outputs(out, config.top_k), _mtn_losses(parts, unweighted, config)


def _mtn_outputs(out: Any, top_k: int) -> dict[str, Any]:
    """Outputs of RTFM, TEVAD and LAP: normal videos first, selections crop-major."""
    from gvvad_jax import losses
    from gvvad_jax.detectors import rtfm

    def halves(pairs_V):
        return np.concatenate([pairs_V[0::2], pairs_V[1::2]])

    selected_Vxk = np.asarray(rtfm.select(out.features_VxNxTxD, top_k, None, 0.0))
    scores_VxT, features = np.asarray(out.scores_VxT), np.asarray(out.features_VxNxTxD)
    bags_V = np.take_along_axis(scores_VxT, selected_Vxk, 1).mean(axis=1)
    found = {
        "snippet_scores": halves(scores_VxT)[..., None],
        "feature_magnitude": halves(np.asarray(losses.norm(out.features_VxNxTxD)).mean(axis=1)),
        "bag_score_normal": bags_V[0::2, None],
        "bag_score_abnormal": bags_V[1::2, None],
    }
    chosen = np.take_along_axis(features, selected_Vxk[:, None, :, None], axis=2)
    for half, name in enumerate(("normal", "abnormal")):
        crop_major = chosen[half::2].swapaxes(0, 1)
        found[f"selected_features_{name}"] = crop_major.reshape(-1, *chosen.shape[2:])
    return found


def _mtn_losses(parts: Any, unweighted: Any, config: Any) -> dict[str, Any]:
    found = {
        "smooth": parts["smoothness"],
        "sparsity": parts["sparsity"],
        "cost": parts["cost"],
        "mil_plus_magnitude": parts["bag"] + parts["magnitude"],
        "total": parts["total"],
    }
    if "pseudo" in parts:
        found["pseudo_anomaly_as_coded"] = unweighted["pseudo"]
        # The published number holds gamma once, the total twice.
        found["triplet_incl_gamma"] = unweighted["triplet"] * config.triplet_weight
    return found


def _of_ur_dmu(out: Any, parts: Any, unweighted: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    scores_VxT = np.asarray(out.scores_VxT)
    abnormal_VxT = np.asarray(out.extra["abnormal_attention"])[:, 0]
    normal_VxT = np.asarray(out.extra["normal_attention"])[:, 0]
    found = {
        "frame": np.concatenate([scores_VxT[0::2], scores_VxT[1::2]]),
        "triplet_margin": unweighted["triplet"],
        "kl_loss": unweighted["kl"],
        "distance": unweighted["distance"],
        "A_att": abnormal_VxT[1::2],
        "N_att": normal_VxT[0::2],
        "A_Natt": abnormal_VxT[0::2],
        "N_Aatt": normal_VxT[1::2],
    }
    found_losses = {
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
    return found, found_losses
