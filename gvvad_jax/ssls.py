"""Synthetic sample loss scaling (SSLS, GV-VAD): how lambda is set and how it weights the loss.

paper: video v has weight w_v = lambda if it is synthetic, else 1, in both halves of the batch. A
loss of one video is weighted by w_v, a term that couples several (a pair, a triplet) by the
smallest of its members' weights; sums are divided by the number of terms, not of weights. So,
selections held fixed, a synthetic video's gradient through its losses is linear in lambda and
vanishes at 0. (Its place in BatchNorm's statistics remains.)

reference: with p the share of synthetic videos in the batch's abnormal half,
total = cost (1 - p) + lambda cost p, as published: lambda scales the whole batch's cost.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from gvvad_jax.config import TrainConfig
from gvvad_jax.losses import Term


def init_lambda(config: TrainConfig) -> dict[str, jax.Array]:
    """Parameters of lambda: none where it is fixed, a free scalar where it is learned."""
    if config.lambda_mode == "fixed":
        return {}
    return {"lambda": jnp.asarray(config.lambda_value, jnp.float32)}


def lambda_of(params: Mapping[str, jax.Array], config: TrainConfig) -> jax.Array:
    """The value of lambda at this step, a scalar."""
    if config.lambda_mode == "fixed":
        return jnp.asarray(config.lambda_value, jnp.float32)
    return params["lambda"]


def video_weights(synthetic_V: jax.Array, lambda_: jax.Array) -> jax.Array:
    """Weight of each video of the batch [V]: lambda where it is synthetic, else 1."""
    return jnp.where(synthetic_V, lambda_, 1.0)


def term_value(term: Term, weights_V: jax.Array) -> jax.Array:
    """One term's share of the total, each of its members weighted by its smallest video weight."""
    chex.assert_rank([term.values_M, term.videos_MxJ], [1, 2])

    def member(value, videos_J):
        return value * jnp.min(weights_V[videos_J])

    return term.weight * jnp.mean(jax.vmap(member)(term.values_M, term.videos_MxJ))


def scaled_loss(
    terms: Mapping[str, Term], synthetic_Bx2: jax.Array, lambda_: jax.Array, fidelity: str
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The total loss of a batch after SSLS.

    Args:
      terms: the detector's loss, by name.
      synthetic_Bx2: whether each pair's normal and abnormal video is synthetic.
      lambda_: scalar.
      fidelity: "paper" or "reference".

    Returns:
      (total, parts): the scalar to minimise; each term's share before SSLS, their sum `cost`, and
      `cost_real` and `cost_synthetic`, the parts of the cost whose members are all real, and the
      rest.
    """
    synthetic_V = synthetic_Bx2.reshape(-1)
    ones_V = jnp.ones_like(synthetic_V, jnp.float32)
    parts = {name: term_value(term, ones_V) for name, term in terms.items()}
    cost = sum(parts.values())
    real_V = video_weights(synthetic_V, jnp.zeros(()))
    cost_real = sum(term_value(term, real_V) for term in terms.values())
    parts |= {"cost": cost, "cost_real": cost_real, "cost_synthetic": cost - cost_real}
    if fidelity == "reference":
        share = jnp.mean(synthetic_Bx2[:, 1].astype(jnp.float32))
        return cost * (1.0 - share) + lambda_ * cost * share, parts
    weights_V = video_weights(synthetic_V, lambda_)
    return sum(term_value(term, weights_V) for term in terms.values()), parts
