"""Plain PyTorch twins of the published detectors: an independent check of ours, and of its speed.

RTFM, TEVAD and LAP (`MultipleInstance`), UR-DMU (`DualMemory`) and MIL-Rank (`Ranking`), eager, as
the published code computes them, quirks included, with parameters under the published names.
Nothing here uses our detectors. twin_losses.py has their losses and a training step, goldens.py
loads a golden file into one.

Letters: V videos (B normal, then B abnormal), C crops, N samples (a crop of a video), T snippets,
F visual width, E text width, D inner width, K rows of the prompt bank, R rows of a memory, k
selected snippets. A batch holds tensors under the goldens' names: visual_normal, visual_abnormal
[B, C, T, F], text_* [B, C, T, E] (the same for each crop), source_* [B], bank [K, E], lambda; noise
for UR-DMU.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as fn

FUSIONS = ("concat", "add", "product", "add_up")
HALVES = ("normal", "abnormal")
MARGIN = 100.0  # Margin of feature magnitudes, and of UR-DMU's distance.
Batch = Mapping[str, torch.Tensor]


class NonLocal(nn.Module):
    """A non-local block: attention with affinity theta . phi / T, without a softmax."""

    def __init__(self, dim: int):
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv1d(dim, dim // 2, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv1d(dim // 2, dim, 1), nn.BatchNorm1d(dim))
        nn.init.zeros_(self.W[1].weight)

    def forward(self, x_NxDxT: torch.Tensor) -> torch.Tensor:
        affinity_NxTxT = self.theta(x_NxDxT).transpose(1, 2) @ self.phi(x_NxDxT) / x_NxDxT.shape[2]
        seen_NxTxD = affinity_NxTxT @ self.g(x_NxDxT).transpose(1, 2)
        return self.W(seen_NxTxD.transpose(1, 2)) + x_NxDxT


class MTN(nn.Module):
    """The multi-scale temporal network, [N, T, F] to [N, T, F]. Source: Tian et al., ICCV 2021."""

    def __init__(self, dim: int):
        super().__init__()
        part = dim // 4

        def pyramid(dilation: int) -> nn.Module:
            conv = nn.Conv1d(dim, part, 3, dilation=dilation, padding=dilation)
            return nn.Sequential(conv, nn.ReLU(), nn.BatchNorm1d(part))

        self.conv_1, self.conv_2, self.conv_3 = pyramid(1), pyramid(2), pyramid(4)
        self.conv_4 = nn.Sequential(nn.Conv1d(dim, part, 1, bias=False), nn.ReLU())
        self.non_local = NonLocal(part)
        conv = nn.Conv1d(4 * part, dim, 3, padding=1, bias=False)
        self.conv_5 = nn.Sequential(conv, nn.ReLU(), nn.BatchNorm1d(dim))

    def forward(self, x_NxTxF: torch.Tensor) -> torch.Tensor:
        x = x_NxTxF.transpose(1, 2)
        parts = [self.conv_1(x), self.conv_2(x), self.conv_3(x), self.non_local(self.conv_4(x))]
        return (self.conv_5(torch.cat(parts, dim=1)) + x).transpose(1, 2)


class MultipleInstance(nn.Module):
    """RTFM; with text TEVAD; LAP is TEVAD with more losses.

    Args:
      dim: visual width F.
      text_dim: text width E; 0 for no text stream.
      fusion: how the text stream is joined, one of FUSIONS.
      top_k: number of snippets selected per video.
      dropout: dropout rate, of the selection too.
      lambda_value: initial value of a learnable lambda; None for a fixed one.

    Attributes:
      text_once: run the text stream once a video, as our detector does, instead of once a crop;
        the outputs are the same.
    """

    def __init__(
        self, dim: int, text_dim: int = 0, fusion: str = "concat", top_k: int = 3,
        dropout: float = 0.7, lambda_value: float | None = None,
    ):  # fmt: skip
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion: expected one of {', '.join(FUSIONS)}, found {fusion!r}")
        self.fusion, self.top_k, self.dropout = fusion, top_k, nn.Dropout(dropout)
        self.text_once = False
        self.Aggregate = MTN(dim)
        width = dim + text_dim
        if text_dim:
            self.Aggregate_text = MTN(text_dim)
            if fusion in ("add", "product"):
                self.fc0, width = nn.Linear(dim, text_dim), text_dim
            if fusion == "add_up":
                self.fc_vis, self.fc_text = nn.Linear(dim, width), nn.Linear(text_dim, width)
        self.fc1, self.fc2, self.fc3 = nn.Linear(width, 512), nn.Linear(512, 128), nn.Linear(128, 1)
        self.VLR = None if lambda_value is None else nn.Parameter(torch.tensor(lambda_value))

    def _stream(self, mtn: MTN, x_VxCxTxF: torch.Tensor, once: bool = False) -> torch.Tensor:
        shape = x_VxCxTxF.shape
        seen_VxCxTxF = x_VxCxTxF[:, :1] if once else x_VxCxTxF
        x_VxCxTxF = mtn(seen_VxCxTxF.flatten(0, 1)).unflatten(0, seen_VxCxTxF.shape[:2])
        return self.dropout(x_VxCxTxF.expand(shape))

    def features(self, visual: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """What is scored [V, C, T, D], of visual [V, C, T, F] and text [V, C, any length, E]."""
        visual = self._stream(self.Aggregate, visual)
        if text is None:
            return visual
        length = visual.shape[2]
        text = self._stream(self.Aggregate_text, text, self.text_once)[:, :, :length]
        if missing := length - text.shape[2]:
            text = torch.cat([text, text[:, :, -missing:]], dim=2)
        if self.fusion == "concat":
            return torch.cat([visual, text], dim=-1)
        if self.fusion == "add_up":
            return self._projected(self.fc_vis, visual) + self._projected(self.fc_text, text)
        visual = self._projected(self.fc0, visual)
        return visual + text if self.fusion == "add" else visual * text

    def _projected(self, linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(fn.relu(linear(x)))

    def head(self, features_VxCxTxD: torch.Tensor) -> torch.Tensor:
        x = self._projected(self.fc2, self._projected(self.fc1, features_VxCxTxD))
        return torch.sigmoid(self.fc3(x)).squeeze(-1).mean(dim=1)

    def score(self, visual: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """Snippet scores [V, T]."""
        return self.head(self.features(visual, text))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The forward pass of training: the goldens' out/*, and `features` [V, C, T, D]."""
        features_VxCxTxD = self.features(_videos(batch, "visual"), _videos(batch, "text"))
        scores_VxT = self.head(features_VxCxTxD)
        magnitude_VxT = features_VxCxTxD.norm(dim=-1).mean(dim=1)
        # A dropped snippet can't be selected.
        kept_VxT = self.dropout(torch.ones_like(magnitude_VxT))
        chosen_Vxk = (magnitude_VxT * kept_VxT).topk(self.top_k, dim=1).indices
        bags_Vx1 = scores_VxT.gather(1, chosen_Vxk).mean(dim=1, keepdim=True)
        chosen_CxVxkx1 = chosen_Vxk[None, ..., None]
        selected_CxVxkxD = features_VxCxTxD.transpose(0, 1).take_along_dim(chosen_CxVxkx1, dim=2)
        outputs = {"snippet_scores": scores_VxT[..., None], "feature_magnitude": magnitude_VxT}
        for i, half in enumerate(HALVES):
            outputs[f"bag_score_{half}"] = bags_Vx1.chunk(2)[i]
            outputs[f"selected_features_{half}"] = selected_CxVxkxD.chunk(2, 1)[i].flatten(0, 1)
        return outputs | {"features": features_VxCxTxD}


class Ranking(nn.Module):
    """MIL-Rank: a perceptron applied to each snippet. Source: Sultani et al., CVPR 2018."""

    def __init__(self, dim: int, dropout: float = 0.6):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(dim, 512), nn.Linear(512, 32), nn.Linear(32, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        x = self.dropout(fn.relu(self.fc1(_videos(batch, "visual"))))
        scores_VxCxTx1 = torch.sigmoid(self.fc3(self.dropout(self.fc2(x))))
        return {"snippet_scores": scores_VxCxTx1.mean(dim=1)}


class Attention(nn.Module):
    """Self-attention beside fixed attention to near snippets, concatenated within each head."""

    def __init__(self, dim: int, heads: int, head_width: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 4 * heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(2 * heads * head_width, dim), nn.Dropout(dropout))

    def forward(self, x_NxTxD: torch.Tensor) -> torch.Tensor:
        parts = self.to_qkv(x_NxTxD).unflatten(-1, (4, self.heads, -1))
        q, k, v, t = parts.permute(2, 0, 3, 1, 4)  # each [N, heads, T, head width]
        seen = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v
        places_T = torch.arange(x_NxTxD.shape[1], device=x_NxTxD.device).to(x_NxTxD)
        near_TxT = torch.exp(-(places_T[:, None] - places_T).abs() / math.e)
        # As the golden shows, the divisor belongs to the column, so rows don't sum to one.
        near = near_TxT / near_TxT.sum(dim=0) @ t
        return self.to_out(torch.cat([seen, near], dim=-1).transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """x + block(LN x)."""

    def __init__(self, dim: int, block: nn.Module):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fn(self.norm(x))


class Memory(nn.Module):
    """Learned patterns: how similar a snippet is to them [N, T], and their mixture [N, T, D]."""

    def __init__(self, dim: int, rows: int):
        super().__init__()
        self.memory_block = nn.Parameter(torch.empty(rows, dim).uniform_(-1, 1) / math.sqrt(dim))

    def forward(self, x_NxTxD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows, dim = self.memory_block.shape
        like_NxTxR = torch.sigmoid(x_NxTxD @ self.memory_block.T / math.sqrt(dim))
        return like_NxTxR.topk(rows // 16 + 1).values.mean(dim=-1), like_NxTxR @ self.memory_block


class DualMemory(nn.Module):
    """UR-DMU. Source: Zhou et al., AAAI 2023.

    Args:
      dim: visual width F.
      width: width D of everything after the convolution.
      heads: number of attention heads.
      head_width: width of an attention head.
      rows: number of rows of each memory.
      dropout: dropout rate in the body. No golden has dropout; its places are inferred from the
        published names.
    """

    def __init__(
        self, dim: int, width: int = 512, heads: int = 4, head_width: int = 128, rows: int = 60,
        dropout: float = 0.5,
    ):  # fmt: skip
        super().__init__()

        def layer() -> nn.Module:
            drop, ends = nn.Dropout(dropout), (nn.Linear(width, width), nn.Linear(width, width))
            mlp = _named("net", ends[0], nn.GELU(), drop, ends[1], drop)
            blocks = (Attention(width, heads, head_width, dropout), mlp)
            return nn.Sequential(*(Residual(width, block) for block in blocks))

        self.embedding = _named("conv_1", nn.Conv1d(dim, width, 3, padding=1), nn.ReLU())
        self.selfatt = _named("layers", layer(), layer())
        self.Amemory, self.Nmemory = Memory(width, rows), Memory(width, rows)
        self.encoder_mu = nn.Sequential(nn.Linear(width, width))
        self.encoder_var = nn.Sequential(nn.Linear(width, width))
        ends = nn.Linear(2 * width, 128), nn.Linear(128, 1)
        self.cls_head = _named("mlp", ends[0], nn.ReLU(), ends[1], nn.Sigmoid())

    def body(self, x_NxTxF: torch.Tensor) -> torch.Tensor:
        return self.selfatt(self.embedding(x_NxTxF.transpose(1, 2)).transpose(1, 2))

    def head(self, x_NxTxD: torch.Tensor, read_NxTxD: torch.Tensor) -> torch.Tensor:
        return self.cls_head(torch.cat([x_NxTxD, read_NxTxD], dim=-1)).squeeze(-1)

    def score(self, visual_NxTxF: torch.Tensor) -> torch.Tensor:
        """Snippet scores [N, T] of each crop."""
        x = self.body(visual_NxTxF)
        mu_A, mu_N = (self.encoder_mu(memory(x)[1]) for memory in (self.Amemory, self.Nmemory))
        return self.head(x, mu_A + mu_N)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The forward pass of training: the golden's out/*.

        Visual features are [B, T, F], or [B, C, T, F]: a crop is then a sample of its own (with
        noise of its own, [B * C, T, D]) up to the scores, which are means over crops.
        """
        visual = _videos(batch, "visual")
        x_n, x_a = self.body(visual.flatten(0, -3)).chunk(2)
        (A_att, A_aug), (N_Aatt, N_Aaug) = self.Amemory(x_a), self.Nmemory(x_a)
        (A_Natt, A_Naug), (N_att, N_aug) = self.Amemory(x_n), self.Nmemory(x_n)
        mu_A, mu, var = self.encoder_mu(A_aug), self.encoder_mu(N_aug), self.encoder_var(N_aug)
        noise = batch["noise"] if "noise" in batch else torch.randn_like(mu)
        new = mu + noise * torch.sqrt(torch.exp(var))
        scores_normal = self.head(x_n, new + self.encoder_mu(A_Naug))
        scores_abnormal = self.head(x_a, mu_A + self.encoder_mu(N_Aaug))
        scores_VxCxT = torch.cat([scores_normal, scores_abnormal]).unflatten(0, (len(visual), -1))
        # As the golden shows, snippets are averaged first and normalised afterwards.
        triple = (_chosen(x_n, N_att), _chosen(x_a, N_Aatt), _chosen(x_a, A_att))
        far_N, near_N = _chosen(mu_A, A_att).norm(dim=-1), _chosen(new, N_att).norm(dim=-1)
        return {
            "frame": scores_VxCxT.mean(dim=1),
            "triplet_margin": fn.triplet_margin_loss(*(fn.normalize(x, dim=-1) for x in triple)),
            # The published code sums over time and averages over samples and channels.
            "kl_loss": (-0.5 * (1 + var - mu.square() - var.exp()).sum(dim=1)).mean(),
            "distance": fn.relu(MARGIN - far_N + near_N).mean(),
            **{"A_att": A_att, "N_att": N_att, "A_Natt": A_Natt, "N_Aatt": N_Aatt},
        }


def _named(name: str, *layers: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict({name: nn.Sequential(*layers)}))


def _videos(batch: Batch, kind: str) -> torch.Tensor | None:
    halves = [batch[f"{kind}_{half}"] for half in HALVES if f"{kind}_{half}" in batch]
    return torch.cat(halves) if halves else None


def top(x_NxT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x_NxT.topk(x_NxT.shape[1] // 16 + 1)


def _chosen(x_NxTxD: torch.Tensor, attention_NxT: torch.Tensor) -> torch.Tensor:
    return x_NxTxD.take_along_dim(top(attention_NxT).indices[..., None], dim=1).mean(dim=1)
