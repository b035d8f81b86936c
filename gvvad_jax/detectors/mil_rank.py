"""MIL-Rank: the field's first baseline (Sultani et al., CVPR 2018). An MLP on each snippet."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from gvvad_jax import losses
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors.layers import Noise, Outputs, dense, dropout, probability

# As published: the hidden layers' dropout rate, and the weight of both regularisers.
RATE = 0.6
REGULARISER_WEIGHT = 8e-5


class Detector(nn.Module):
    """MLP D -> 512 -> 32 -> 1; ReLU after the first layer, sigmoid at the end. Text is ignored.

    Attributes:
      config: the run's settings; this detector's widths are fixed.
      axis_name: unused, because there is no BatchNorm.
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
        """Scores V videos."""
        del text_VxTxE, mask_VxT, train, generated_V  # Every snippet is scored by itself.
        rate = RATE if self.config.dropout else 0.0
        x = nn.relu(dense(512, "fc1")(visual_VxNxTxD))
        x = dropout(x, noise, rate, layer=0)
        x = dropout(dense(32, "fc2")(x), noise, rate, layer=1)
        logits = dense(1, "fc3")(x)
        scores_VxT = jnp.mean(probability(logits[..., 0]), axis=1)
        return Outputs(scores_VxT=scores_VxT, features_VxNxTxD=visual_VxNxTxD)


def loss_terms(
    outputs: Outputs,
    text_VxTxE: jax.Array | None,
    bank_KxE: jax.Array | None,
    config: TrainConfig,
) -> dict[str, losses.Term]:
    """MIL-Rank's loss on B pairs, its arguments as in rtfm.loss_terms.

    Source: Sultani et al., CVPR 2018, eq. 7.

    Returns:
      Terms `ranking`, `smoothness`, `sparsity`.
    """
    del text_VxTxE, bank_KxE, config
    scores_VxT = outputs.scores_VxT
    chex.assert_rank(scores_VxT, 2)
    abnormal_BxT = scores_VxT[1::2]
    videos_Bx2 = jnp.arange(len(scores_VxT)).reshape(-1, 2)

    def regulariser(loss: Callable[[jax.Array], jax.Array]) -> losses.Term:
        return losses.Term(
            values_M=jax.vmap(loss)(abnormal_BxT),
            videos_MxJ=videos_Bx2[:, 1:],
            weight=REGULARISER_WEIGHT,
        )

    ranking_B = jax.vmap(losses.ranking_loss)(scores_VxT[0::2], abnormal_BxT)
    return {
        "ranking": losses.Term(values_M=ranking_B, videos_MxJ=videos_Bx2, weight=1.0),
        "smoothness": regulariser(losses.smoothness),
        "sparsity": regulariser(losses.sparsity),
    }
