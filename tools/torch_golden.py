"""Numbers as in tests/golden, at any sizes: what reference_step can be tried on.

  golden(detector, ...)   measured on the PyTorch twin (tools/torch_twin.py) at random parameters
                          and inputs; np.savez of it is a golden file
  measure(golden)         the same numbers again, from its parameters and inputs

Letters in names: M snippets of all videos, S texts drawn near the bank; the rest as in torch_twin.
"""

import dataclasses

import numpy as np
import torch
from torch import nn

from tools import torch_twin
from tools.torch_twin import HALVES, Arrays

DETECTORS = ("rtfm", "tevad", "lap", "ur_dmu")


def measure(golden: Arrays) -> dict[str, np.ndarray]:
    """Everything a golden's parameters and inputs lead to, under the golden's names.

    Where it has gradients, its own go through Adam: the first step turns a gradient near zero
    into plus or minus a learning rate, so the optimiser is checked apart from the gradients.
    """
    model, batch = torch_twin.from_golden(golden), torch_twin.inputs(golden)
    found = {f"eval/{name}": value for name, value in _inference(model, golden).items()}
    outputs = model.train()(batch)
    terms = torch_twin.losses(model, outputs, batch)
    terms.get("total", terms["cost"]).backward()
    found |= {f"out/{name}": value for name, value in outputs.items() if name != "features"}
    found |= {f"loss/{name}": value for name, value in terms.items()}
    for name, parameter in model.named_parameters():
        found[f"grad/{name}"] = parameter.grad.clone()
        parameter.grad = torch.tensor(golden.get(f"grad/{name}", parameter.grad.numpy()))
    rate, l2 = (float(golden[f"meta/{name}"]) for name in ("learning_rate", "l2"))
    torch.optim.Adam(model.parameters(), rate, weight_decay=l2).step()  # The coupled kind of L2.
    found |= {f"param_after/{name}": value for name, value in model.state_dict().items()}
    after = _inference(model, golden)
    if "snippet_scores" in after:
        found["eval/snippet_scores_after_step"] = after["snippet_scores"]
    if golden["meta/detector"] == "lap":
        length = golden["eval/text"].shape[2] - 1  # One snippet of text too many.
        shorter = golden | {"eval/visual": golden["eval/visual"][:, :, :length]}
        found["eval/snippet_scores_longer_text"] = _inference(model, shorter)["snippet_scores"]
    return {name: value.detach().numpy().copy() for name, value in found.items()}


@torch.no_grad()
def _inference(model: nn.Module, golden: Arrays) -> dict[str, torch.Tensor]:
    data = torch_twin.tensors("eval/", golden)
    model.eval()
    if "visual_crops" in data:
        return {"snippet_scores_per_crop": model.score(data["visual_crops"])}
    return {"snippet_scores": model.score(data["visual"], data.get("text"))[..., None]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What to make a golden of. A detector ignores what it doesn't have."""

    seed: int = 0  # Of everything random.
    pairs: int = 3
    crops: int = 5  # UR-DMU's are those of its inference.
    length: int = 32
    dim: int = 24
    text_dim: int = 32
    bank: int = 6  # Rows.
    fusion: str = "concat"
    lambda_mode: str = "fixed"  # Or learnable.
    lambda_value: float = 0.5
    top_k: int = 3
    heads: int = 4
    head_width: int = 8
    width: int = 32  # Of UR-DMU's body.
    memory_rows: int = 60
    eval_length: int = 45  # Snippets of the video to score; its text has two fewer.
    learning_rate: float = 1e-3
    l2: float = 5e-3


def golden(detector: str, **settings) -> dict[str, np.ndarray]:
    """Numbers of the twin at random parameters and inputs: np.savez of them is a golden file.

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
        model, data = torch_twin.DualMemory(*sizes, dropout=0.0), _dual_memory_data(case, generator)
        meta["heads"] = case.heads
    else:
        learnable = detector == "lap" and case.lambda_mode == "learnable"
        value = case.lambda_value if learnable else None
        text_dim = 0 if detector == "rtfm" else case.text_dim
        model = torch_twin.MultipleInstance(case.dim, text_dim, case.fusion, case.top_k, 0.0, value)
        data = _multiple_instance_data(detector, case, generator)
        meta["top_k"] = case.top_k
        meta |= {"fusion": case.fusion} if text_dim else {}
        meta |= {"lambda_mode": case.lambda_mode} if detector == "lap" else {}
    _randomise(model, generator)
    meta |= {name: np.float32(getattr(case, name)) for name in ("learning_rate", "l2")}
    found = {name: value.numpy() for name, value in data.items()}
    found |= {f"meta/{name}": np.asarray(value) for name, value in meta.items()}
    found |= {f"param/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    return found | measure(found)


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
        # The half that isn't looked at has another share of synthetic videos.
        data["source_normal"] = torch.ones(case.pairs, dtype=torch.int64)
        data["source_abnormal"] = (torch.arange(case.pairs) + 1) % 2
        # Where there's room some texts are so like the bank's that K snippets are suspected:
        # fewer would leave the triplet's choice to a tie.
        rows_MxE, room = texts["text_abnormal"].flatten(0, 1), case.pairs * case.length // 3
        spots_S = torch.randperm(len(rows_MxE), generator=generator)[: max(case.bank, room // 2)]
        spots_S = spots_S[:room]
        prompts_SxE = data["bank"][torch.arange(len(spots_S)) % case.bank]
        rows_MxE[spots_S] = prompts_SxE + 0.3 * normal(len(spots_S), text_dim)
    crops = {name: text[:, None].repeat(1, case.crops, 1, 1) for name, text in texts.items()}
    return data | crops


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Xavier weights; nothing of one axis stays at its usual zero or one."""
    for name, value in model.named_parameters():
        if value.ndim > 1:
            nn.init.xavier_uniform_(value, generator=generator)
        elif value.ndim == 1:  # Lambda has none.
            usual = 0.0 if name.endswith("bias") else 1.0
            value.copy_(usual + 0.1 * torch.randn(value.shape, generator=generator))
    for name, value in model.named_buffers():
        if not name.endswith("num_batches_tracked"):
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
