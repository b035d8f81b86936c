"""Synthetic sample loss scaling (SSLS, GV-VAD): how lambda is set and how it weights the loss.

paper: video v has weight w_v = lambda if it is synthetic, else 1, in both halves of the batch. A
loss of one video is weighted by w_v, a term that couples several (a pair, a triplet) by the
smallest of its members' weights; sums are divided by the number of terms, not of weights. So,
selections held fixed, a synthetic video's gradient through its losses is linear in lambda up to 1
(above it a mixed pair keeps weight 1) and vanishes at 0. (Its place in BatchNorm's statistics
remains.)

reference: with p the share of synthetic videos in the batch's abnormal half,
total = cost (1 - p) + lambda cost p, as published: lambda scales the whole batch's cost.

How lambda is set is one function a mode: `Lambda` of the config. A new mode is its function here
and its name in config.LAMBDA_MODES.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from gvvad_jax.config import TrainConfig
from gvvad_jax.losses import Term


@dataclasses.dataclass(frozen=True)
class Lambda:
    """One way to set lambda.

    Attributes:
      value: (raw, step) -> lambda; raw is the learned scalar behind it, step counts from 0.
      start: where raw starts; None: nothing is learned.
      penalty: lambda -> what is added to the loss for each synthetic video of the batch.
      decayed: whether the optimiser's L2 pulls on raw.
      from_held_out: whether raw follows the held-out real videos and not the loss it scales.
    """

    value: Callable[[jax.Array | None, jax.Array], jax.Array]
    start: float | None = None
    penalty: Callable[[jax.Array], jax.Array] | None = None
    decayed: bool = False
    from_held_out: bool = False


def fixed(config: TrainConfig) -> Lambda:
    """The same all along; 0.5 is the paper's best."""
    return Lambda(value=lambda raw, step: jnp.asarray(config.lambda_value))


def scheduled(config: TrainConfig) -> Lambda:
    """lambda_value times a factor that rises in the first tenth of the run and decays after.

    With N steps, W = N / 10 and n = step + lambda_shift, the rise from a = 0.001 for n < W is
    linear a + (1-a) n/W, exponential a (1/a)^(n/W), or cosine a + (1-a)/2 (1 - cos(pi n/W)); the
    decay after it is none 1, cosine (1 + cos(pi (n-W)/(N-W)))/2, or step 0.1^floor((n-W)/200).
    Being ahead, n passes N: there the cosine stays at 0, as published (`reference`) it rises again.
    """
    floor, num_steps = 0.001, config.steps
    warmup = 0.1 * num_steps

    def value(_, step):
        n = jnp.asarray(step, jnp.float32) + config.lambda_shift
        up, down = n / warmup, n - warmup
        progress = down / (num_steps - warmup)
        if config.fidelity == "paper":
            progress = jnp.minimum(progress, 1.0)
        rise = {
            "none": jnp.ones_like(n),
            "linear": floor + (1.0 - floor) * up,
            "exponential": floor * (1.0 / floor) ** up,
            "cosine": floor + (1.0 - floor) / 2 * (1.0 - jnp.cos(jnp.pi * up)),
        }
        decay = {
            "none": jnp.ones_like(n),
            "cosine": (1.0 + jnp.cos(jnp.pi * progress)) / 2,
            "step": 0.1 ** jnp.floor(down / 200.0),
        }
        factor = jnp.where(n < warmup, rise[config.lambda_rise], decay[config.lambda_decay])
        return config.lambda_value * factor

    return Lambda(value=value)


def learnable(config: TrainConfig) -> Lambda:
    """A free scalar, as published (`VLR`), decayed by L2.

    Its gradient is the synthetic loss, never negative: it only falls, and crosses zero into
    negative weights, which maximise the synthetic videos' loss. Kept to reproduce that.
    """
    return Lambda(start=config.lambda_value, value=lambda raw, step: raw, decayed=True)


def sigmoid(config: TrainConfig) -> Lambda:
    """Learned between 0 and 1. It falls as `learnable` does, ever slower, and stays positive."""
    value = config.lambda_value
    return Lambda(
        start=math.log(value / (1.0 - value)), value=lambda raw, step: jax.nn.sigmoid(raw)
    )


def softplus(config: TrainConfig) -> Lambda:
    """Learned above 0, without an upper bound."""
    value = config.lambda_value  # Its logarithm of exp(value) - 1, without the overflow.
    return Lambda(
        start=value + math.log(-math.expm1(-value)),
        value=lambda raw, step: jax.nn.softplus(raw),
    )


def uncertainty(config: TrainConfig) -> Lambda:
    """exp(-s) L + s for each synthetic video: settles where lambda = 1 / their mean loss.

    Exactly so for losses of one video, about so with terms that couple several. It may exceed 1.
    The only mode whose training loss alone keeps lambda from vanishing. Source: Kendall et al.,
    CVPR 2018, eq. 9, for the synthetic videos; the real ones keep weight 1.
    """
    return Lambda(
        start=-math.log(config.lambda_value),
        value=lambda raw, step: jnp.exp(-raw),
        penalty=lambda lambda_: -jnp.log(lambda_),
    )


def meta(config: TrainConfig) -> Lambda:
    """Between 0 and 1, up while the synthetic gradient helps held-out real videos, down otherwise.

    A step of rate r along g + lambda g_scaled, g_scaled the gradient of what lambda multiplies (the
    synthetic cost), changes the loss of the held-out videos by -r <g_held_out, g_scaled> per unit
    of lambda (to first order), so that inner product, with its sign turned, is lambda's gradient.
    Source: Ren et al., ICML 2018, eq. 11, for one weight.
    """
    return dataclasses.replace(sigmoid(config), from_held_out=True)


def mode(config: TrainConfig) -> Lambda:
    """The way that the config names."""
    return globals()[config.lambda_mode](config)


def init_lambda(config: TrainConfig) -> dict[str, jax.Array]:
    """The learned scalar behind lambda; nothing where nothing is learned."""
    start = mode(config).start
    return {} if start is None else {"lambda": jnp.asarray(start, jnp.float32)}


def lambda_of(params: Mapping[str, jax.Array], step: jax.Array, config: TrainConfig) -> jax.Array:
    """The value of lambda at this step, a float32 scalar."""
    return mode(config).value(params.get("lambda"), step).astype(jnp.float32)


def video_weights(synthetic_V: jax.Array, lambda_: jax.Array) -> jax.Array:
    """Weight of each video of the batch [V]: lambda where it is synthetic, 1 where it is real.

    A mixture counts by its parts: synthetic_V may be any share between 0 and 1.
    """
    synthetic_V = jnp.asarray(synthetic_V, jnp.float32)
    return (1.0 - synthetic_V) + synthetic_V * lambda_


def term_value(term: Term, weights_V: jax.Array) -> jax.Array:
    """One term's share of the total, each of its members weighted by its smallest video weight."""
    chex.assert_rank([term.values_M, term.videos_MxJ], [1, 2])

    def member(value, videos_J):
        return value * jnp.min(weights_V[videos_J])

    return term.weight * jnp.mean(jax.vmap(member)(term.values_M, term.videos_MxJ))


def scaled_loss(
    terms: Mapping[str, Term], synthetic_Bx2: jax.Array, lambda_: jax.Array, config: TrainConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The total loss of a batch after SSLS.

    Args:
      terms: the detector's loss, by name.
      synthetic_Bx2: how far each pair's normal and abnormal video is synthetic, 0 or 1, or
        between where videos are mixed.
      lambda_: scalar.
      config: fidelity and lambda's mode.

    Returns:
      (total, parts): the scalar to minimise; each term's share before SSLS, their sum `cost`;
      `cost_real` and `cost_synthetic`, the parts of the cost whose members are all real, and the
      rest; `cost_scaled`, what lambda multiplies (up to 1).
    """
    synthetic_V = synthetic_Bx2.reshape(-1)
    ones_V = jnp.ones_like(synthetic_V, jnp.float32)

    def summed(weights_V):
        return sum(term_value(term, weights_V) for term in terms.values())

    parts = {name: term_value(term, ones_V) for name, term in terms.items()}
    cost = sum(parts.values())
    cost_real = summed(video_weights(synthetic_V, jnp.zeros(())))
    parts |= {"cost": cost, "cost_real": cost_real, "cost_synthetic": cost - cost_real}
    if config.fidelity == "reference":
        share = jnp.mean(synthetic_Bx2[:, 1].astype(jnp.float32))
        total = cost * (1.0 - share) + lambda_ * cost * share
        parts["cost_scaled"] = cost * share
    else:
        share = jnp.mean(synthetic_V.astype(jnp.float32))
        total = summed(video_weights(synthetic_V, lambda_))
        parts["cost_scaled"] = parts["cost_synthetic"]
    if penalty := mode(config).penalty:
        total += share * penalty(lambda_)
    return total, parts
