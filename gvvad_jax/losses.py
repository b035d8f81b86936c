"""Loss terms of ONE video, ONE pair or ONE triplet; the caller vmaps them.

A detector returns its loss as named `Term`s: the values of a term, the videos that each value
couples, and the term's weight. What a synthetic video weighs is decided in one place, ssls.py,
from that. Batch-wide terms (the `reference` smoothness and sparsity, LAP's threshold) say so.
Letters: B pairs, N crops, T snippets, D features, K prompts, k selected snippets.
"""

from collections.abc import Mapping

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


def weigh_labels(
    terms: Mapping[str, Term], normal_weight: float, abnormal_weight: float
) -> dict[str, Term]:
    """The loss with every value of ONE video weighted by its label.

    Terms that couple videos (a pair has one of each label) stay as they are.
    """
    if normal_weight == abnormal_weight == 1.0:
        return dict(terms)

    def weighted(term: Term) -> Term:
        if term.videos_MxJ.shape[1] != 1:
            return term
        abnormal_M = term.videos_MxJ[:, 0] % 2 == 1
        return term.replace(
            values_M=term.values_M * jnp.where(abnormal_M, abnormal_weight, normal_weight)
        )

    return {name: weighted(term) for name, term in terms.items()}


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


def attention_loss(attention_T: jax.Array, target: jax.Array) -> jax.Array:
    """BCE of the mean of a video's T // 16 + 1 highest attentions. Source: UR-DMU (AAAI 2023)."""
    chex.assert_rank([attention_T, target], [1, 0])
    highest = jax.lax.top_k(attention_T, len(attention_T) // 16 + 1)[0]
    return binary_cross_entropy(jnp.mean(highest), target)


def kl_loss(mu_TxC: jax.Array, var_TxC: jax.Array) -> jax.Array:
    """Divergence of one video's latent normality from a unit Gaussian, summed over TIME as coded.

    Args:
      mu_TxC: means.
      var_TxC: logarithms of variances.

    Returns:
      Mean over channels of -0.5 sum_t (1 + var - mu^2 - exp(var)). Source: UR-DMU.
    """
    chex.assert_rank([mu_TxC, var_TxC], 2)
    inside = 1.0 + var_TxC - jnp.square(mu_TxC) - jnp.exp(var_TxC)
    return jnp.mean(-0.5 * jnp.sum(inside, axis=0))


def distance_loss(normal_kxC: jax.Array, abnormal_kxC: jax.Array, margin: float) -> jax.Array:
    """max(0, margin - ||mean abnormal|| + ||mean normal||) of one pair. Source: UR-DMU."""
    chex.assert_rank([normal_kxC, abnormal_kxC], 2)
    lengths = [norm(jnp.mean(x, axis=0)) for x in (normal_kxC, abnormal_kxC)]
    return jnp.maximum(0.0, margin - lengths[1] + lengths[0])


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
