"""RTFM: robust temporal feature magnitude (Tian et al., ICCV 2021). Visual features only."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from gvvad_jax import losses
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors.layers import Noise, Outputs, dropout
from gvvad_jax.detectors.mtn import MTN, Head, over_crops


class Detector(nn.Module):
    """Visual features through the MTN, scored snippet by snippet.

    Attributes:
      config: the run's settings.
      axis_name: the device axis that BatchNorm's statistics are taken over.
    """

    config: TrainConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        visual_VxNxTxD: jax.Array,
        text_VxTxE: jax.Array | None = None,
        mask_VxT: jax.Array | None = None,
        *,
        noise: Noise | None = None,
        train: bool = False,
        generated_V: jax.Array | None = None,
    ) -> Outputs:
        """Scores V videos; text is ignored. See layers.batch_norm for `generated_V`."""
        config = self.config
        mtn = MTN(config.mtn_channels, self.axis_name, config.causal_window, name="visual")
        features_VxNxTxD = over_crops(mtn, visual_VxNxTxD, mask_VxT, train, generated_V)
        features_VxNxTxD = dropout(features_VxNxTxD, noise, config.dropout, layer=0)
        return scored(features_VxNxTxD, config, noise, train)


def scored(
    features_VxNxTxD: jax.Array,
    config: TrainConfig,
    noise: Noise | None,
    train: bool,
    shared: int = 0,
) -> Outputs:
    """Selects and scores snippets: the last part of a detector's nn.compact method.

    Args:
      features_VxNxTxD: the snippets' features.
      config: the run's settings.
      noise: the step's noise; None when not training.
      train: whether losses will be computed from the outputs.
      shared: how many of the last channels are the same for every crop.
    """
    selected_Vxk = select(features_VxNxTxD, config.top_k, noise, config.dropout)
    head = Head(config.head_widths, config.dropout, shared, name="head")
    return Outputs(
        scores_VxT=head(features_VxNxTxD, noise, selected_Vxk if train else None),
        features_VxNxTxD=features_VxNxTxD,
        extra={"selected": selected_Vxk},
    )


def select(features_VxNxTxD: jax.Array, top_k: int, noise: Noise | None, rate: float) -> jax.Array:
    """Selects the k snippets of largest feature magnitude of each video.

    The magnitude of a snippet is the L2 norm of its feature, mean over crops. While training,
    magnitudes are dropped out first, so that the choice varies. A bag of fewer than k snippets is
    selected whole. Source: RTFM, section 3.1.

    Returns:
      Indices of snippets [V, k], largest magnitude first.
    """
    magnitude_VxT = jnp.mean(losses.norm(features_VxNxTxD), axis=1)
    kept_VxT = dropout(jnp.ones_like(magnitude_VxT), noise, rate, layer=1)
    # The selection of a video whose length export leaves open isn't used, and is the whole.
    length = magnitude_VxT.shape[1]
    count = min(top_k, length) if isinstance(length, int) else length
    _, selected_Vxk = jax.lax.top_k(jax.lax.stop_gradient(magnitude_VxT * kept_VxT), count)
    return selected_Vxk


def loss_terms(
    outputs: Outputs,
    text_VxTxE: jax.Array | None,
    bank_KxE: jax.Array | None,
    config: TrainConfig,
) -> dict[str, losses.Term]:
    """RTFM's loss on B pairs; videos are in the order normal 0, abnormal 0, normal 1, ...

    Args:
      outputs: outputs for the 2B videos; `extra["selected"]` [2B, k] are their selected snippets.
      text_VxTxE: text features; unused here, but in every detector's signature.
      bank_KxE: the anomaly-prompt bank; unused here, but in every detector's signature.
      config: weights of the terms, margin, fidelity.

    Returns:
      Terms `bag`, `magnitude`, `smoothness`, `sparsity`.
    """
    del text_VxTxE, bank_KxE
    chex.assert_rank([outputs.scores_VxT, outputs.features_VxNxTxD], [2, 4])
    selected_Vxk = outputs.extra["selected"]
    return {
        "bag": _bag(outputs.scores_VxT, selected_Vxk),
        "magnitude": _magnitude(outputs.features_VxNxTxD, selected_Vxk, config),
        **_regularisers(outputs.scores_VxT[1::2], config),
    }


def _bag(scores_VxT: jax.Array, selected_Vxk: jax.Array) -> losses.Term:
    scores_Vxk = jnp.take_along_axis(scores_VxT, selected_Vxk, axis=1)
    videos_V = jnp.arange(len(scores_VxT))
    labels_V = (videos_V % 2).astype(scores_Vxk.dtype)
    values_V = jax.vmap(losses.bag_loss)(scores_Vxk, labels_V)
    return losses.Term(values_M=values_V, videos_MxJ=videos_V[:, None], weight=1.0)


def _magnitude(
    features_VxNxTxD: jax.Array, selected_Vxk: jax.Array, config: TrainConfig
) -> losses.Term:
    selected_VxNxkxD = jnp.take_along_axis(features_VxNxTxD, selected_Vxk[:, None, :, None], axis=2)
    crops_loss = jax.vmap(losses.magnitude_loss, in_axes=(0, 0, None))
    pairs_loss = jax.vmap(crops_loss, in_axes=(0, 0, None))
    values_BxN = pairs_loss(selected_VxNxkxD[0::2], selected_VxNxkxD[1::2], config.margin)
    videos_Bx2 = jnp.arange(len(features_VxNxTxD)).reshape(-1, 2)
    return losses.Term(
        values_M=values_BxN.reshape(-1),
        videos_MxJ=jnp.repeat(videos_Bx2, values_BxN.shape[1], axis=0),
        weight=config.magnitude_weight,
    )


def _regularisers(scores_BxT: jax.Array, config: TrainConfig) -> dict[str, losses.Term]:
    """Builds the terms smoothness and sparsity of the abnormal videos' scores."""
    videos_B = 2 * jnp.arange(len(scores_BxT)) + 1
    if config.fidelity == "reference":
        smoothness, sparsity = (
            value[None] for value in losses.reference_smoothness_and_sparsity(scores_BxT)
        )
        videos_MxJ = videos_B[None]
    else:
        smoothness = jax.vmap(losses.smoothness)(scores_BxT)
        sparsity = jax.vmap(losses.sparsity)(scores_BxT)
        videos_MxJ = videos_B[:, None]
    return {
        "smoothness": losses.Term(
            values_M=smoothness, videos_MxJ=videos_MxJ, weight=config.smoothness_weight
        ),
        "sparsity": losses.Term(
            values_M=sparsity, videos_MxJ=videos_MxJ, weight=config.sparsity_weight
        ),
    }
