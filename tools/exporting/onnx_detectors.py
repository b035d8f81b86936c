"""Detectors as ONNX graphs, written from their files in gvvad_jax/detectors operation by operation.

The command compares every file with its detector before it is put in place, so that a detector that
has changed since can't be exported wrongly. A new detector needs a function here, and a line in
_BUILDERS.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors import causal, ur_dmu
from gvvad_jax.scoring import Model
from tools.exporting.contract import SCORES, TEXT, VISUAL, Contract
from tools.exporting.onnx_graph import Graph, Params


def convert(model: Model, notes: Mapping[str, Any]) -> bytes:
    """Returns the file: visual [T, N, D] (and text [T, E]) -> scores [T].

    Args:
      model: the detector.
      notes: the metadata, which the file has as well.

    Raises:
      UserError: a detector that has no function here.
    """
    config = model.config
    if config.detector not in _BUILDERS:
        raise UserError(
            f"--format=onnx: expected one of {', '.join(_BUILDERS)}, found {config.detector}; use "
            "--format=stablehlo"
        )
    graph, variables = Graph(), jax.tree.map(np.asarray, model.variables)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    visual = VISUAL
    if model.standard.mean_D is not None:
        visual = graph.op("Sub", visual, graph.constant(model.standard.mean_D))
        visual = graph.op("Div", visual, graph.constant(model.standard.std_D))
    if config.score_crops == "mean":
        visual = graph.op("ReduceMean", visual, axes=[1], keepdims=1)
    visual_NxTxD = graph.op("Transpose", visual, perm=[1, 0, 2])
    scores_T = _BUILDERS[config.detector](graph, visual_NxTxD, params, statistics, config)
    inputs = Contract.of(model).inputs()
    written = {name: value if isinstance(value, str) else json.dumps(value)
               for name, value in notes.items()}  # fmt: skip
    return graph.model(inputs, scores_T, SCORES, written).SerializeToString()


def run(content: bytes, video: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scores a video by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([SCORES], dict(video))[0])


def _mean_probability(graph: Graph, logits_NxTx1: str) -> str:
    """Sigmoid, then the mean over crops [T]."""
    return graph.op("ReduceMean", graph.op("Sigmoid", logits_NxTx1), axes=[0, 2], keepdims=0)


def _mil_rank(graph: Graph, x_NxTxD: str, params: Params, _: Params, __: TrainConfig) -> str:
    y = graph.op("Relu", graph.dense(x_NxTxD, params["fc1"]))
    return _mean_probability(graph, graph.dense(graph.dense(y, params["fc2"]), params["fc3"]))


def _rtfm(
    graph: Graph, x_NxTxD: str, params: Params, statistics: Params, config: TrainConfig
) -> str:
    y_NxTxD = _mtn(graph, x_NxTxD, params["visual"], statistics["visual"], config.causal_window)
    return _head(graph, y_NxTxD, params["head"])


def _tevad(
    graph: Graph, x_NxTxD: str, params: Params, statistics: Params, config: TrainConfig
) -> str:
    window, streams = config.causal_window, {}
    inputs = {"visual": x_NxTxD} if config.uses_visual else {}
    if config.uses_text:
        inputs["text"] = graph.op("Unsqueeze", TEXT, graph.ints(0))
    for name, x in inputs.items():
        streams[name] = _mtn(graph, x, params[name], statistics[name], window)
    if len(streams) == 1:
        return _head(graph, *streams.values(), params["head"])
    visual, text = streams["visual"], streams["text"]

    def projected(x: str, name: str) -> str:
        return graph.op("Relu", graph.dense(x, params[name]))

    if config.fusion == "concat":
        # The text is the same for every crop.
        sizes = [graph.length(visual, 0), graph.length(visual, 1), graph.length(text, 2)]
        text = graph.op("Expand", text, graph.op("Concat", *sizes, axis=0))
        fused = graph.op("Concat", visual, text, axis=-1)
    elif config.fusion in ("add", "product"):
        kind = "Add" if config.fusion == "add" else "Mul"
        fused = graph.op(kind, projected(visual, "fc0"), text)
    else:
        fused = graph.op("Add", projected(visual, "fc_vis"), projected(text, "fc_text"))
    return _head(graph, fused, params["head"])


def _head(graph: Graph, x_NxTxD: str, params: Params) -> str:
    layers = [params[f"fc{i}"] for i in range(1, len(params) + 1)]
    for layer in layers[:-1]:
        x_NxTxD = graph.op("Relu", graph.dense(x_NxTxD, layer))
    return _mean_probability(graph, graph.dense(x_NxTxD, layers[-1]))


def _mtn(graph: Graph, x_NxTxD: str, params: Params, statistics: Params, window: int) -> str:
    """mtn.MTN on [N, T, D]."""
    causes = bool(window)
    x_NxDxT = graph.turned(x_NxTxD)

    def normed(x: str, name: str) -> str:
        return graph.batch_norm(graph.op("Relu", x), params[f"{name}_norm"],
                                statistics[f"{name}_norm"])  # fmt: skip

    branches = [
        normed(graph.conv(x_NxDxT, params[f"conv_{i}"], dilation, causes), f"conv_{i}")
        for i, dilation in ((1, 1), (2, 2), (3, 4))
    ]
    reduced = graph.op("Relu", graph.conv(x_NxDxT, params["conv_4"]))
    band = window - causal.taps(3, window - 1) + 1 if window else 0
    branches.append(_non_local(graph, reduced, params["non_local"], statistics["non_local"], band))
    fused = graph.conv(graph.op("Concat", *branches, axis=1), params["conv_5"], 1, causes)
    return graph.turned(graph.op("Add", normed(fused, "conv_5"), x_NxDxT))


def _non_local(graph: Graph, x_NxCxT: str, params: Params, statistics: Params, band: int) -> str:
    """mtn.NonLocal, for any length as theta (phi' g), which is the form of long videos."""
    x_NxTxC = graph.turned(x_NxCxT)
    theta, phi, g = (graph.dense(x_NxTxC, params[name]) for name in ("theta", "phi", "g"))
    length = graph.length(x_NxTxC, 1)
    if band:
        seen_TxT = graph.seen(graph.ages(length), band)
        affinity = graph.op("Mul", graph.op("MatMul", theta, graph.turned(phi)), seen_TxT)
        affinity = graph.op("Div", affinity, graph.summed(seen_TxT, -1))
        context = graph.op("MatMul", affinity, g)
    else:
        context = graph.op("MatMul", graph.turned(phi), g)
        context = graph.op("Div", context, graph.op("Cast", length, to=1))
        context = graph.op("MatMul", theta, context)
    y_NxCxT = graph.turned(graph.dense(context, params["W"]))
    return graph.op(
        "Add", graph.batch_norm(y_NxCxT, params["W_norm"], statistics["W_norm"]), x_NxCxT
    )


def _ur_dmu(graph: Graph, x_NxTxD: str, params: Params, _: Params, config: TrainConfig) -> str:
    x = _body(graph, x_NxTxD, params["body"], config)
    width = config.body_width

    def read(memory: str) -> str:
        rows_RxC = params[memory]["rows"]
        keys = graph.constant(rows_RxC.T / math.sqrt(width))
        weights = graph.op("Sigmoid", graph.op("MatMul", x, keys))
        return graph.dense(graph.op("MatMul", weights, graph.constant(rows_RxC)), params["mu"])

    latent = graph.op("Add", read("abnormal_memory"), read("normal_memory"))
    y = graph.op("Concat", x, latent, axis=-1)
    for i in range(1, len(config.head_widths or (128,)) + 1):
        y = graph.op("Relu", graph.dense(y, params[f"fc{i}"]))
    return _mean_probability(graph, graph.dense(y, params["score"]))


def _body(graph: Graph, x_NxTxD: str, params: Params, config: TrainConfig) -> str:
    window, causes = config.causal_window, bool(config.causal_window)
    x = graph.turned(graph.op("Relu", graph.conv(graph.turned(x_NxTxD), params["conv"], 1, causes)))
    ages_TxT = graph.ages(graph.length(x, 1))
    past = window - causal.taps(3, window - 1) if window else 0
    for i in range(ur_dmu.LAYERS):
        band = (past + i) // ur_dmu.LAYERS + 1 if window else 0
        normed = graph.layer_norm(x, params[f"attention_{i}_norm"])
        x = graph.op("Add", x, _attention(graph, normed, ages_TxT, params[f"attention_{i}"], config,
                                          band))  # fmt: skip
        y = graph.dense(graph.layer_norm(x, params[f"mlp_{i}_norm"]), params[f"mlp_{i}_in"])
        x = graph.op("Add", x, graph.dense(_gelu(graph, y), params[f"mlp_{i}_out"]))
    return x


def _gelu(graph: Graph, x: str) -> str:
    half = graph.op("Mul", x, graph.constant(0.5))
    erf = graph.op("Erf", graph.op("Mul", x, graph.constant(math.sqrt(0.5))))
    return graph.op("Mul", half, graph.op("Add", erf, graph.constant(1.0)))


def _attention(
    graph: Graph, x_NxTxC: str, ages_TxT: str, params: Params, config: TrainConfig, band: int
) -> str:
    """ur_dmu.Attention in its whole form: T x T weights for each head."""
    heads, channels = (
        config.heads,
        config.head_channels or max(1, config.body_width // config.heads),
    )
    parts = graph.op("Reshape", graph.dense(x_NxTxC, params["to_qkvt"]),
                     graph.ints(0, 0, 4, heads, channels))  # fmt: skip
    parts = graph.op("Transpose", parts, perm=[2, 0, 3, 1, 4])
    q, k, v, t = (graph.op("Gather", parts, graph.constant(i, np.int64), axis=0) for i in range(4))
    keys = graph.op("Transpose", k, perm=[0, 1, 3, 2])
    logits = graph.op("Div", graph.op("MatMul", q, keys), graph.constant(math.sqrt(channels)))
    near_TxT = graph.op("Exp", graph.op("Div", graph.op("Abs", ages_TxT), graph.constant(-math.e)))
    if band:
        seen_TxT = graph.seen(ages_TxT, band)
        hidden = graph.op("Equal", seen_TxT, graph.constant(0.0))
        logits = graph.op("Where", hidden, graph.constant(-1e30), logits)
        near_TxT = graph.op("Mul", near_TxT, seen_TxT)
    # As published, the attention by distance is normalised by columns; a causal one by rows.
    near_TxT = graph.op("Div", near_TxT, graph.summed(near_TxT, 1 if band else 0))
    attended = graph.op("MatMul", graph.op("Softmax", logits, axis=-1), v)
    both = graph.op("Concat", attended, graph.op("MatMul", near_TxT, t), axis=-1)
    both = graph.op("Transpose", both, perm=[0, 2, 1, 3])
    return graph.dense(
        graph.op("Reshape", both, graph.ints(0, 0, 2 * heads * channels)), params["to_out"]
    )


_BUILDERS = {
    "mil_rank": _mil_rank,
    "rtfm": _rtfm,
    "tevad": _tevad,
    "lap": _tevad,
    "ur_dmu": _ur_dmu,
}
