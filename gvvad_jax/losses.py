"""Loss terms of ONE video, ONE pair or ONE triplet; the caller vmaps them.

A detector returns its loss as named `Term`s: the values of a term, the videos that each value
couples, and the term's weight. From these ssls.py, and nothing else, decides the weight of
synthetic videos. Terms over the whole batch (the `reference` smoothness and sparsity) say so.
All functions raise ValueError for an argument with the wrong number of axes.
Letters: B pairs, T snippets, C and D features, k selected snippets.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

# PyTorch clamps the logarithm in its binary cross-entropy here.
LOG_FLOOR = -100.0


class Term(struct.PyTreeNode, kw_only=True):
    """One term of the loss before synthetic sample loss scaling.

    Attributes:
      values_M: the term's value for each of its M members (a video, a pair, a triplet).
      videos_MxJ: which videos each member couples, as rows of the batch [2B] (2i is pair i's
        normal video, 2i+1 its abnormal one).
      weight: the term's weight in the total, which takes weight x mean over M.
    """

    values_M: jax.Array
    videos_MxJ: jax.Array
    weight: float


def require_rank(rank: int, **arrays: jax.Array) -> None:
    """Raises ValueError unless every array has `rank` axes; names the argument that doesn't."""
    for name, array in arrays.items():
        if jnp.ndim(array) != rank:
            raise ValueError(
                f"{name}: expected an array of {rank} axes, found shape {list(jnp.shape(array))}"
            )


def require_same_shape(**arrays: jax.Array) -> None:
    """Raises ValueError unless all arrays have one shape; names the arguments."""
    shapes = {name: list(jnp.shape(array)) for name, array in arrays.items()}
    if any(shape != next(iter(shapes.values())) for shape in shapes.values()):
        listed = ", ".join(map(str, shapes.values()))
        raise ValueError(f"{', '.join(shapes)}: expected equal shapes, found {listed}")


def weigh_labels(
    terms: Mapping[str, Term], normal_weight: float, abnormal_weight: float
) -> dict[str, Term]:
    """Weights every value that belongs to ONE video by the video's label.

    Terms that couple videos stay as they are, because a pair has one video of each label.

    Args:
      terms: the detector's loss, by name.
      normal_weight: weight of a normal video's values.
      abnormal_weight: weight of an abnormal video's values.

    Returns:
      The weighted terms, by name.
    """

    def weigh(term: Term) -> Term:
        if term.videos_MxJ.shape[1] != 1:
            return term
        abnormal_M = term.videos_MxJ[:, 0] % 2 == 1
        return term.replace(
            values_M=term.values_M * jnp.where(abnormal_M, abnormal_weight, normal_weight)
        )

    return {name: weigh(term) for name, term in terms.items()}


def binary_cross_entropy(probability: jax.Array, target: jax.Array) -> jax.Array:
    """Binary cross-entropy (BCE), elementwise, with logarithms clamped at -100 as in PyTorch.

    Gradients stay finite at 0 and 1, where the clamp applies.
    """

    def log(x: jax.Array) -> jax.Array:
        positive = x > jnp.exp(LOG_FLOOR)
        return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), LOG_FLOOR)

    return -(target * log(probability) + (1.0 - target) * log(1.0 - probability))


def norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """L2 norm along an axis; its gradient at zero is zero instead of NaN."""
    squared = jnp.sum(jnp.square(x), axis=axis)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def bag_loss(scores_k: jax.Array, label: jax.Array) -> jax.Array:
    """Multiple-instance BCE of one video, whose score is its selected snippets' mean score.

    Source: RTFM (Tian et al., 2021), eq. 5.

    Args:
      scores_k: scores of the selected snippets, in [0, 1].
      label: 1 abnormal, 0 normal.

    Returns:
      BCE(mean of scores_k, label), a scalar.
    """
    require_rank(1, scores_k=scores_k)
    require_rank(0, label=label)
    return binary_cross_entropy(jnp.mean(scores_k), label)


def ranking_loss(normal_T: jax.Array, abnormal_T: jax.Array) -> jax.Array:
    """Hinge loss of one pair: the highest abnormal score should exceed the highest normal by 1.

    Source: Sultani et al., CVPR 2018, eq. 5.

    Args:
      normal_T: snippet scores of the normal video.
      abnormal_T: snippet scores of the abnormal video; its number of snippets may differ.

    Returns:
      max(0, 1 - max abnormal + max normal), a scalar.
    """
    require_rank(1, normal_T=normal_T, abnormal_T=abnormal_T)
    return jnp.maximum(0.0, 1.0 - jnp.max(abnormal_T) + jnp.max(normal_T))


def magnitude_loss(normal_kxD: jax.Array, abnormal_kxD: jax.Array, margin: float) -> jax.Array:
    """Feature magnitude loss of one pair and one crop. Source: RTFM's published code.

    Args:
      normal_kxD: features of the normal video's selected snippets.
      abnormal_kxD: features of the abnormal video's selected snippets.
      margin: the magnitude that abnormal features should reach (100 suits I3D).

    Returns:
      (|margin - ||mean abnormal||| + ||mean normal||)^2, a scalar.
    """
    require_rank(2, normal_kxD=normal_kxD, abnormal_kxD=abnormal_kxD)
    require_same_shape(normal_kxD=normal_kxD, abnormal_kxD=abnormal_kxD)
    abnormal = jnp.abs(margin - norm(jnp.mean(abnormal_kxD, axis=0)))
    return jnp.square(abnormal + norm(jnp.mean(normal_kxD, axis=0)))


def smoothness(scores_T: jax.Array) -> jax.Array:
    """Sum over t of (s[t+1] - s[t])^2, of one video's snippet scores. Source: Sultani, eq. 6."""
    require_rank(1, scores_T=scores_T)
    return jnp.sum(jnp.square(jnp.diff(scores_T)))


def sparsity(scores_T: jax.Array) -> jax.Array:
    """Sum over t of |s[t]|, of one video's snippet scores. Source: Sultani, eq. 6."""
    require_rank(1, scores_T=scores_T)
    return jnp.sum(jnp.abs(scores_T))


def reference_smoothness_and_sparsity(scores_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smoothness and sparsity as RTFM's published code computes them, over the whole batch.

    The code flattens the batch, so differences cross the borders of videos. With T = 64 it
    reshapes to [B*32, 2] first: differences are then between snippets t and t+2, and sparsity is
    the mean of the two columns' L2 norms.

    Args:
      scores_BxT: scores of the abnormal videos.

    Returns:
      (smoothness, sparsity), two scalars.
    """
    require_rank(2, scores_BxT=scores_BxT)
    columns = 2 if scores_BxT.shape[1] == 64 else 1
    flat_MxC = scores_BxT.reshape(-1, columns)
    return (
        jnp.sum(jnp.square(jnp.diff(flat_MxC, axis=0))),
        jnp.mean(norm(flat_MxC, axis=0)),
    )


def pseudo_anomaly_loss(scores_T: jax.Array, suspected_T: jax.Array) -> jax.Array:
    """LAP's pseudo-anomaly loss of one abnormal video.

    Args:
      scores_T: snippet scores; 1 - scores for the published code's form.
      suspected_T: 1 where the snippet's text is close to an anomaly prompt, else 0.

    Returns:
      Mean over snippets of BCE(scores, suspected), a scalar.
    """
    require_rank(1, scores_T=scores_T, suspected_T=suspected_T)
    require_same_shape(scores_T=scores_T, suspected_T=suspected_T)
    return jnp.mean(binary_cross_entropy(scores_T, suspected_T))


def attention_loss(attention_T: jax.Array, target: jax.Array) -> jax.Array:
    """BCE of the mean of a video's T // 16 + 1 highest attentions. Source: UR-DMU (AAAI 2023).

    Args:
      attention_T: attentions, or scores, in [0, 1].
      target: 0 or 1.

    Returns:
      BCE(mean of the highest, target), a scalar.
    """
    require_rank(1, attention_T=attention_T)
    require_rank(0, target=target)
    highest = jax.lax.top_k(attention_T, len(attention_T) // 16 + 1)[0]
    return binary_cross_entropy(jnp.mean(highest), target)


def kl_loss(mu_TxC: jax.Array, var_TxC: jax.Array) -> jax.Array:
    """KL divergence of one video's latent normality from a unit Gaussian. Source: UR-DMU.

    The sum is over TIME, as in the published code, and not over channels.

    Args:
      mu_TxC: means.
      var_TxC: logarithms of variances.

    Returns:
      Mean over channels of -0.5 sum_t (1 + var - mu^2 - exp(var)), a scalar.
    """
    require_rank(2, mu_TxC=mu_TxC, var_TxC=var_TxC)
    require_same_shape(mu_TxC=mu_TxC, var_TxC=var_TxC)
    inside = 1.0 + var_TxC - jnp.square(mu_TxC) - jnp.exp(var_TxC)
    return jnp.mean(-0.5 * jnp.sum(inside, axis=0))


def distance_loss(normal_kxC: jax.Array, abnormal_kxC: jax.Array, margin: float) -> jax.Array:
    """Distance loss of one pair in the latent space. Source: UR-DMU.

    Args:
      normal_kxC: latent features of the normal video's selected snippets.
      abnormal_kxC: latent features of the abnormal video's selected snippets.
      margin: the distance between the two lengths that costs nothing.

    Returns:
      max(0, margin - ||mean abnormal|| + ||mean normal||), a scalar.
    """
    require_rank(2, normal_kxC=normal_kxC, abnormal_kxC=abnormal_kxC)
    lengths = [norm(jnp.mean(x, axis=0)) for x in (normal_kxC, abnormal_kxC)]
    return jnp.maximum(0.0, margin - lengths[1] + lengths[0])


def triplet_loss(
    anchor_D: jax.Array, positive_D: jax.Array, negative_D: jax.Array, margin: float = 1.0
) -> jax.Array:
    """Triplet loss of three feature vectors.

    Every difference has 1e-6 added to it, as in PyTorch's distance with p = 2.

    Args:
      anchor_D: the anchor.
      positive_D: the vector that should be near the anchor.
      negative_D: the vector that should be far from it.
      margin: how much farther the negative should be.

    Returns:
      max(0, margin + ||anchor - positive|| - ||anchor - negative||), a scalar.
    """
    require_rank(1, anchor_D=anchor_D, positive_D=positive_D, negative_D=negative_D)
    require_same_shape(anchor_D=anchor_D, positive_D=positive_D, negative_D=negative_D)
    near = norm(anchor_D - positive_D + 1e-6)
    far = norm(anchor_D - negative_D + 1e-6)
    return jnp.maximum(0.0, margin + near - far)
