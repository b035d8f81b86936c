"""Golden files: numbers as in tests/golden, computed at any sizes with the PyTorch twins.

- `golden(detector, ...)`: a golden of random parameters and inputs; np.savez writes it as a file.
- `measure(golden)`: the same numbers again, from the golden's parameters and inputs.
- `from_golden(golden)`, `inputs(golden)`: its model and its training batch.

Letters in names: M snippets of all videos, S texts drawn near the bank; the rest as in twins.py.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tools.published import twins
from tools.published.twin_losses import losses
from tools.published.twins import HALVES

DETECTORS = ("rtfm", "tevad", "lap", "ur_dmu")
Arrays = Mapping[str, np.ndarray]


def from_golden(golden: Arrays) -> nn.Module:
    """Builds the twin with a golden's parameters and sizes, without dropout."""
    state = tensors("param/", golden)
    if golden["meta/detector"] == "ur_dmu":
        width, dim, _ = state["embedding.conv_1.0.weight"].shape
        heads, parts = int(golden["meta/heads"]), len(state["selfatt.layers.0.0.fn.to_qkv.weight"])
        rows = len(state["Amemory.memory_block"])
        model = twins.DualMemory(dim, width, heads, parts // (4 * heads), rows, dropout=0.0)
    else:
        dims = [len(state.get(f"Aggregate{s}.conv_5.2.bias", ())) for s in ("", "_text")]
        lambda_value = float(state["VLR"]) if "VLR" in state else None
        fusion, top_k = str(golden.get("meta/fusion", "concat")), int(golden["meta/top_k"])
        model = twins.MultipleInstance(*dims, fusion, top_k, 0.0, lambda_value)
    model.load_state_dict(state)
    return model


def inputs(golden: Arrays) -> dict[str, torch.Tensor]:
    """A golden's training batch."""
    return {name: torch.tensor(value) for name, value in golden.items() if "/" not in name}


def tensors(prefix: str, golden: Arrays) -> dict[str, torch.Tensor]:
    """A golden's arrays under a prefix, named without it."""
    named = {name[len(prefix) :]: golden[name] for name in golden if name.startswith(prefix)}
    return {name: torch.tensor(value) for name, value in named.items()}


def measure(golden: Arrays) -> dict[str, np.ndarray]:
    """Computes what a golden's parameters and inputs lead to, under the golden's names.

    Where the golden has gradients, Adam is applied to these. Its first step turns a gradient near
    zero into plus or minus a learning rate, so the optimiser is checked apart from the gradients.
    """
    model, batch = from_golden(golden), inputs(golden)
    measured = {f"eval/{name}": value for name, value in _inference(model, golden).items()}
    outputs = model.train()(batch)
    terms = losses(model, outputs, batch)
    terms.get("total", terms["cost"]).backward()
    measured |= {f"out/{name}": value for name, value in outputs.items() if name != "features"}
    measured |= {f"loss/{name}": value for name, value in terms.items()}
    for name, parameter in model.named_parameters():
        measured[f"grad/{name}"] = parameter.grad.clone()
        parameter.grad = torch.tensor(golden.get(f"grad/{name}", parameter.grad.numpy()))
    rate, l2 = (float(golden[f"meta/{name}"]) for name in ("learning_rate", "l2"))
    torch.optim.Adam(model.parameters(), rate, weight_decay=l2).step()  # L2 coupled with Adam.
    measured |= {f"param_after/{name}": value for name, value in model.state_dict().items()}
    after = _inference(model, golden)
    if "snippet_scores" in after:
        measured["eval/snippet_scores_after_step"] = after["snippet_scores"]
    if golden["meta/detector"] == "lap":
        length = golden["eval/text"].shape[2] - 1  # The text is one snippet longer than the video.
        shorter = golden | {"eval/visual": golden["eval/visual"][:, :, :length]}
        measured["eval/snippet_scores_longer_text"] = _inference(model, shorter)["snippet_scores"]
    return {name: value.detach().numpy().copy() for name, value in measured.items()}


@torch.no_grad()
def _inference(model: nn.Module, golden: Arrays) -> dict[str, torch.Tensor]:
    data = tensors("eval/", golden)
    model.eval()
    if "visual_crops" in data:
        return {"snippet_scores_per_crop": model.score(data["visual_crops"])}
    return {"snippet_scores": model.score(data["visual"], data.get("text"))[..., None]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes and settings of a golden. A detector ignores those that it doesn't have."""

    seed: int = 0  # Random seed.
    pairs: int = 3
    crops: int = 5  # For UR-DMU, crops at inference.
    length: int = 32
    dim: int = 24
    text_dim: int = 32
    bank: int = 6  # Rows of the prompt bank.
    fusion: str = "concat"
    lambda_mode: str = "fixed"  # Or "learnable".
    lambda_value: float = 0.5
    top_k: int = 3
    heads: int = 4
    head_width: int = 8
    width: int = 32  # Width of UR-DMU's body.
    memory_rows: int = 60
    eval_length: int = 45  # Snippets of the scored video; its text has two fewer.
    learning_rate: float = 1e-3
    l2: float = 5e-3


def golden(detector: str, **settings) -> dict[str, np.ndarray]:
    """Makes a golden from the twin at random parameters and inputs.

    Args:
      detector: one of DETECTORS.
      **settings: fields of Case.
    """
    if detector not in DETECTORS:
        raise ValueError(f"detector: expected one of {', '.join(DETECTORS)}, found {detector!r}")
    published = {"learning_rate": 1e-4, "l2": 5e-5} if detector == "ur_dmu" else {}
    case = Case(**published | settings)
    generator = torch.Generator().manual_seed(case.seed)
    meta = {"detector": detector}
    if detector == "ur_dmu":
        sizes = (case.dim, case.width, case.heads, case.head_width, case.memory_rows)
        model, data = twins.DualMemory(*sizes, dropout=0.0), _dual_memory_data(case, generator)
        meta["heads"] = case.heads
    else:
        learnable = detector == "lap" and case.lambda_mode == "learnable"
        value = case.lambda_value if learnable else None
        text_dim = 0 if detector == "rtfm" else case.text_dim
        model = twins.MultipleInstance(case.dim, text_dim, case.fusion, case.top_k, 0.0, value)
        data = _multiple_instance_data(detector, case, generator)
        meta["top_k"] = case.top_k
        meta |= {"fusion": case.fusion} if text_dim else {}
        meta |= {"lambda_mode": case.lambda_mode} if detector == "lap" else {}
    _randomise(model, generator)
    meta |= {name: np.float32(getattr(case, name)) for name in ("learning_rate", "l2")}
    arrays = {name: value.numpy() for name, value in data.items()}
    arrays |= {f"meta/{name}": np.asarray(value) for name, value in meta.items()}
    arrays |= {f"param/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    return arrays | measure(arrays)


def _dual_memory_data(case: Case, generator: torch.Generator) -> dict[str, torch.Tensor]:
    shapes = {f"visual_{half}": (case.pairs, case.length, case.dim) for half in HALVES}
    shapes["noise"] = (case.pairs, case.length, case.width)
    shapes["eval/visual_crops"] = (case.crops, case.eval_length, case.dim)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _multiple_instance_data(
    detector: str, case: Case, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    data = {f"visual_{h}": normal(case.pairs, case.crops, case.length, case.dim) for h in HALVES}
    data["eval/visual"] = normal(1, case.crops, case.eval_length, case.dim)
    if detector == "rtfm":
        return data
    text_dim = case.text_dim
    texts = {f"text_{half}": normal(case.pairs, case.length, text_dim) for half in HALVES}
    texts["eval/text"] = normal(1, case.eval_length - 2, text_dim)
    if detector == "lap":
        data["bank"], data["lambda"] = normal(case.bank, text_dim), torch.tensor(case.lambda_value)
        # The normal half, which the loss must ignore, has another share of synthetic videos.
        data["source_normal"] = torch.ones(case.pairs, dtype=torch.int64)
        data["source_abnormal"] = (torch.arange(case.pairs) + 1) % 2
        # Some texts are so similar to the bank's that K snippets are suspected, if there is room:
        # with fewer, ties would decide what the triplet selects.
        rows_MxE, room = texts["text_abnormal"].flatten(0, 1), case.pairs * case.length // 3
        spots_S = torch.randperm(len(rows_MxE), generator=generator)[: max(case.bank, room // 2)]
        spots_S = spots_S[:room]
        prompts_SxE = data["bank"][torch.arange(len(spots_S)) % case.bank]
        rows_MxE[spots_S] = prompts_SxE + 0.3 * normal(len(spots_S), text_dim)
    crops = {name: text[:, None].repeat(1, case.crops, 1, 1) for name, text in texts.items()}
    return data | crops


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draws Xavier weights, and moves biases and scales away from their usual zero or one."""
    for name, value in model.named_parameters():
        if value.ndim > 1:
            nn.init.xavier_uniform_(value, generator=generator)
        elif value.ndim == 1:  # Lambda has no axis.
            usual = 0.0 if name.endswith("bias") else 1.0
            value.copy_(usual + 0.1 * torch.randn(value.shape, generator=generator))
    for name, value in model.named_buffers():
        if not name.endswith("num_batches_tracked"):
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
