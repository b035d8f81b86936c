"""Loss terms of ONE video, ONE pair or ONE triplet; the caller vmaps them.

A detector returns its loss as named `Term`s: the values of a term, the videos that each value
couples, and the term's weight. What a synthetic video weighs is decided in one place, ssls.py,
from that. Batch-wide terms (the `reference` smoothness and sparsity, LAP's threshold) say so.
Letters: B pairs, N crops, T snippets, D features, K prompts, k selected snippets.
"""

import chex
import jax
import jax.numpy as jnp

# PyTorch clamps the logarithm in its binary cross-entropy here.
LOG_FLOOR = -100.0


@chex.dataclass(frozen=True)
class Term:
    """One term of the loss before synthetic sample loss scaling.

    Attributes:
      values_M: the term's value for each of its M members (a video, a pair, a triplet).
      videos_MxJ: which videos each member couples, as rows of the batch [2B] (2i is pair i's
        normal video, 2i+1 its abnormal one).
      weight: of the term in the total; the total takes weight x mean over M.
    """

    values_M: jax.Array
    videos_MxJ: jax.Array
    weight: float


def binary_cross_entropy(probability: jax.Array, target: jax.Array) -> jax.Array:
    """Elementwise BCE of probabilities, the logarithm clamped at -100 as in PyTorch.

    Gradients stay finite at 0 and 1, where the clamp holds.
    """

    def log(x):
        positive = x > jnp.exp(LOG_FLOOR)
        return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), LOG_FLOOR)

    return -(target * log(probability) + (1.0 - target) * log(1.0 - probability))


def norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """L2 norm whose gradient at zero is zero instead of NaN."""
    squared = jnp.sum(jnp.square(x), axis=axis)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def bag_loss(scores_k: jax.Array, label: jax.Array) -> jax.Array:
    """Multiple-instance BCE of one video: the mean score of its selected snippets is its score.

    Args:
      scores_k: scores of the selected snippets, in [0, 1].
      label: 1 abnormal, 0 normal.

    Returns:
      Scalar. Source: RTFM (Tian et al., 2021), eq. 5.
    """
    chex.assert_rank([scores_k, label], [1, 0])
    return binary_cross_entropy(jnp.mean(scores_k), label)


def ranking_loss(normal_T: jax.Array, abnormal_T: jax.Array) -> jax.Array:
    """Hinge of one pair: the highest abnormal score should exceed the highest normal one by 1.

    Source: Sultani et al., CVPR 2018, eq. 5.
    """
    chex.assert_rank([normal_T, abnormal_T], 1)
    return jnp.maximum(0.0, 1.0 - jnp.max(abnormal_T) + jnp.max(normal_T))


def magnitude_loss(normal_kxD: jax.Array, abnormal_kxD: jax.Array, margin: float) -> jax.Array:
    """Feature magnitude loss of one pair and one crop.

    Args:
      normal_kxD: features of the normal video's selected snippets.
      abnormal_kxD: those of the abnormal video it is paired with.
      margin: what the abnormal magnitude should reach (100 suits I3D).

    Returns:
      (|margin - ||mean abnormal||| + ||mean normal||)^2, scalar. Source: RTFM's published form.
    """
    chex.assert_rank([normal_kxD, abnormal_kxD], 2)
    chex.assert_equal_shape([normal_kxD, abnormal_kxD])
    abnormal = jnp.abs(margin - norm(jnp.mean(abnormal_kxD, axis=0)))
    return jnp.square(abnormal + norm(jnp.mean(normal_kxD, axis=0)))


def smoothness(scores_T: jax.Array) -> jax.Array:
    """Sum of squared differences of neighbouring snippet scores of one video. Source: Sultani."""
    chex.assert_rank(scores_T, 1)
    return jnp.sum(jnp.square(jnp.diff(scores_T)))


def sparsity(scores_T: jax.Array) -> jax.Array:
    """Sum of the absolute snippet scores of one video. Source: Sultani."""
    chex.assert_rank(scores_T, 1)
    return jnp.sum(jnp.abs(scores_T))


def reference_smoothness_and_sparsity(scores_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the published code computes on the abnormal half as a whole.

    The batch is flattened, so differences cross the borders of videos. With T = 64 the code
    reshapes to [B*32, 2] first: differences are then between snippets t and t+2, and sparsity is
    the mean of the two columns' norms.

    Args:
      scores_BxT: scores of the abnormal videos.

    Returns:
      (smoothness, sparsity), two scalars.
    """
    chex.assert_rank(scores_BxT, 2)
    columns = 2 if scores_BxT.shape[1] == 64 else 1
    flat_MxC = scores_BxT.reshape(-1, columns)
    return (
        jnp.sum(jnp.square(jnp.diff(flat_MxC, axis=0))),
        jnp.mean(norm(flat_MxC, axis=0)),
    )


def pseudo_anomaly_loss(scores_T: jax.Array, suspected_T: jax.Array) -> jax.Array:
    """LAP's pseudo-anomaly loss of one abnormal video: mean BCE against suspected snippets.

    Args:
      scores_T: snippet scores; 1 - scores for the published code's form.
      suspected_T: 1 where the snippet's text is close to the anomaly prompts.
    """
    chex.assert_rank([scores_T, suspected_T], 1)
    return jnp.mean(binary_cross_entropy(scores_T, suspected_T))


def triplet_loss(
    anchor_D: jax.Array, positive_D: jax.Array, negative_D: jax.Array, margin: float = 1.0
) -> jax.Array:
    """max(0, margin + |anchor - positive| - |anchor - negative|) of one triplet.

    PyTorch's p = 2 distance adds 1e-6 to every difference; so do we.
    """
    chex.assert_rank([anchor_D, positive_D, negative_D], 1)
    near = norm(anchor_D - positive_D + 1e-6)
    far = norm(anchor_D - negative_D + 1e-6)
    return jnp.maximum(0.0, margin + near - far)
