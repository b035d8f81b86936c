"""Losses and a training step of the PyTorch twins; letters in names are those of twins.py."""

import torch
from torch import nn
from torch.nn import functional as fn

from tools.published.twins import MARGIN, Batch, DualMemory, Ranking, top


def losses(model: nn.Module, outputs: Batch, batch: Batch) -> dict[str, torch.Tensor]:
    """The goldens' loss/*. Training minimises `total`, or `cost` where there is no `total`."""
    if isinstance(model, DualMemory):
        return _dual_memory_losses(outputs)
    if isinstance(model, Ranking):
        return _ranking_losses(outputs)
    abnormal_BxT = outputs["snippet_scores"].squeeze(-1).chunk(2)[1]
    bce = (_bce(outputs["bag_score_normal"], 0.0) + _bce(outputs["bag_score_abnormal"], 1.0)) / 2
    far_N = MARGIN - outputs["selected_features_abnormal"].mean(dim=1).norm(dim=1)
    near_N = outputs["selected_features_normal"].mean(dim=1).norm(dim=1)
    mil = bce + 1e-4 * (far_N.abs() + near_N).square().mean()
    # The published code takes differences across videos, and reshapes 64 snippets to 32.
    flat = abnormal_BxT.reshape(-1, 2 if abnormal_BxT.shape[1] == 64 else 1)
    smooth, sparsity = 8e-4 * flat.diff(dim=0).square().sum(), 8e-3 * flat.norm(dim=0).mean()
    terms = {"cost": mil + smooth + sparsity, "smooth": smooth, "sparsity": sparsity}
    if "bank" not in batch:
        return terms
    suspected_BxT = suspected(batch["text_abnormal"][:, 0], batch["bank"])
    pseudo = fn.binary_cross_entropy(1 - abnormal_BxT, suspected_BxT)  # As in the published code.
    triplet = 0.1 * _mined_triplet(outputs, suspected_BxT, len(batch["bank"]))
    cost = terms["cost"] + 1e-3 * pseudo + 0.1 * triplet  # Gamma twice, as in the published code.
    share = batch["source_abnormal"].to(cost).mean()
    lambda_ = batch["lambda"] if model.VLR is None else model.VLR
    total = cost * (1 - share) + lambda_ * cost * share
    terms |= {"pseudo_anomaly_as_coded": pseudo, "triplet_incl_gamma": triplet}
    return terms | {"mil_plus_magnitude": mil, "cost": cost, "total": total}


def suspected(text_BxTxE: torch.Tensor, bank_KxE: torch.Tensor) -> torch.Tensor:
    """LAP's suspected snippets [B, T]: 1 where the best cosine exceeds mean + deviation."""
    best_BxT = (fn.normalize(text_BxTxE, dim=-1) @ fn.normalize(bank_KxE, dim=-1).T).amax(dim=-1)
    return (best_BxT > best_BxT.mean() + best_BxT.std()).to(best_BxT)


def _mined_triplet(outputs: Batch, suspected_BxT: torch.Tensor, count: int) -> torch.Tensor:
    normal_M, abnormal_M = outputs["snippet_scores"].reshape(2, -1)
    product_M = abnormal_M * suspected_BxT.flatten()
    # A stable sort takes the lowest index among ties (unsuspected snippets).
    orders = [normal_M.argsort(stable=True), abnormal_M.argsort(stable=True)]
    orders.append(product_M.argsort(stable=True, descending=True))
    rows_n, rows_a = outputs["features"].transpose(1, 2).flatten(2).flatten(0, 1).chunk(2)
    rows = zip((rows_n, rows_a, rows_a), orders, strict=True)
    return fn.triplet_margin_loss(*(rows_MxCD[order_M[:count]] for rows_MxCD, order_M in rows))


def _bce(probability: torch.Tensor, target: float) -> torch.Tensor:
    return fn.binary_cross_entropy(probability, torch.full_like(probability, target))


def _dual_memory_losses(outputs: Batch) -> dict[str, torch.Tensor]:
    normal_B, abnormal_B = top(outputs["frame"]).values.mean(dim=1).chunk(2)
    high_A, low_N = (top(x).values.mean(dim=1) for x in (outputs["A_att"], 1 - outputs["N_Aatt"]))
    weighted = {
        "att_loss": (1.0, (_bce(normal_B, 0.0) + _bce(abnormal_B, 1.0)) / 2),
        "A_loss": (0.1, _bce(high_A, 1.0)),
        "N_Aatt": (0.1, _bce(low_N, 1.0)),
        "N_loss": (0.1, _bce(outputs["N_att"], 1.0)),
        "A_Nloss": (0.1, _bce(outputs["A_Natt"], 0.0)),
        "triplet": (0.1, outputs["triplet_margin"]),
        "kl_loss": (1e-3, outputs["kl_loss"]),
        "distance": (1e-4, outputs["distance"]),
    }
    terms = {name: loss for name, (_, loss) in weighted.items()}
    return terms | {"cost": sum(weight * loss for weight, loss in weighted.values())}


def _ranking_losses(outputs: Batch) -> dict[str, torch.Tensor]:
    normal_BxT, abnormal_BxT = outputs["snippet_scores"].squeeze(-1).chunk(2)
    terms = {
        "ranking": fn.relu(1 - abnormal_BxT.amax(dim=1) + normal_BxT.amax(dim=1)).mean(),
        "smooth": 8e-5 * abnormal_BxT.diff(dim=1).square().sum(dim=1).mean(),
        "sparsity": 8e-5 * abnormal_BxT.sum(dim=1).mean(),
    }
    return terms | {"cost": sum(terms.values())}


def train_step(
    model: nn.Module, adam: torch.optim.Optimizer, batch: Batch
) -> dict[str, torch.Tensor]:
    """Takes one training step in the model's current mode; returns its losses."""
    adam.zero_grad()
    terms = losses(model, model(batch), batch)
    terms.get("total", terms["cost"]).backward()
    adam.step()
    return {name: value.detach() for name, value in terms.items()}
