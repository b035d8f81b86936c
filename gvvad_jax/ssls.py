"""Synthetic sample loss scaling (SSLS, GV-VAD): how lambda is set and how it weights the loss.

Lambda is the weight of generated (synthetic) videos in the loss.

paper: video v has weight w_v = lambda if it is synthetic, else 1, in both halves of the batch. A
loss of one video is weighted by w_v, a term that couples several (a pair, a triplet) by the
smallest of its members' weights; sums are divided by the number of terms, not by the sum of
weights. So with selections held fixed, a synthetic video's gradient through its losses vanishes at
lambda 0 and is linear in lambda up to 1; above 1 a mixed pair keeps weight 1. The video still takes
part in BatchNorm's statistics.

reference: with p the share of synthetic videos in the batch's abnormal half,
total = cost (1 - p) + lambda cost p, as published: lambda scales the whole batch's cost.

Each mode of setting lambda is a function from the config to a `Lambda`. To add a mode, write its
function here and its name in config.LAMBDA_MODES.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from gvvad_jax.config import TrainConfig
from gvvad_jax.losses import Term, require_rank


@dataclasses.dataclass(frozen=True)
class Lambda:
    """One way to set lambda.

    Attributes:
      value: (raw, step) -> lambda, where raw is the learned scalar (0 if nothing is learned) and
        step counts from 0.
      start: lambda's first value -> raw's; None if nothing is learned.
      penalty: lambda -> the amount added to the loss for each synthetic video of the batch.
      decayed: whether the optimiser's L2 applies to raw.
      from_held_out: whether raw's gradient comes from held-out real videos instead of the loss that
        lambda scales.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    start: Callable[[float], float] | None = None
    penalty: Callable[[jax.Array], jax.Array] | None = None
    decayed: bool = False
    from_held_out: bool = False


def fixed(config: TrainConfig) -> Lambda:
    """Constant lambda; 0.5 is the paper's best."""
    return Lambda(value=lambda raw, step: jnp.asarray(config.lambda_value))


def scheduled(config: TrainConfig) -> Lambda:
    """Multiplies lambda_value by a factor that first rises and then decays.

    With N steps, W = N / 10 and n = step + lambda_shift, the rise from a = 0.001 for n < W is
    linear a + (1-a) n/W, exponential a (1/a)^(n/W), or cosine a + (1-a)/2 (1 - cos(pi n/W)); the
    decay after it is none 1, cosine (1 + cos(pi (n-W)/(N-W)))/2, half the same with N/2 for N and
    0 from N/2 on, or step 0.1^floor((n-W)/200). With a shift, n exceeds N at the end of the run.
    There the cosine stays at 0; as published (`reference`) it rises again.
    """
    floor, num_steps = 0.001, config.steps
    warmup = 0.1 * num_steps

    def value(_: jax.Array, step: jax.Array) -> jax.Array:
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
            "half": (1.0 + jnp.cos(jnp.pi * jnp.minimum(down / (num_steps / 2 - warmup), 1.0))) / 2,
            "step": 0.1 ** jnp.floor(down / 200.0),
        }
        factor = jnp.where(n < warmup, rise[config.lambda_rise], decay[config.lambda_decay])
        return config.lambda_value * factor

    return Lambda(value=value)


def learnable(config: TrainConfig) -> Lambda:
    """Learned without bounds and decayed by L2, as published (`VLR`).

    Its gradient is the synthetic loss, which is never negative. So lambda only falls and becomes
    negative, which maximises the synthetic videos' loss. This mode exists to reproduce that.
    """
    return Lambda(start=lambda value: value, value=lambda raw, step: raw, decayed=True)


def sigmoid(config: TrainConfig) -> Lambda:
    """Learned between 0 and 1: lambda = sigmoid(raw). It falls ever more slowly, above 0."""
    return Lambda(
        start=lambda value: math.log(value / (1.0 - value)),
        value=lambda raw, step: jax.nn.sigmoid(raw),
    )


def softplus(config: TrainConfig) -> Lambda:
    """Learned above 0, without an upper bound: lambda = log(1 + exp(raw))."""
    return Lambda(
        # log(exp(value) - 1), without overflow.
        start=lambda value: value + math.log(-math.expm1(-value)),
        value=lambda raw, step: jax.nn.softplus(raw),
    )


def uncertainty(config: TrainConfig) -> Lambda:
    """Uncertainty weighting: lambda = exp(-s), with s added to each synthetic video's loss.

    The loss exp(-s) L + s is smallest where lambda = 1 / the synthetic videos' mean loss (about
    there with terms that couple several videos). Lambda may exceed 1. In no other mode does the
    training loss by itself keep lambda from vanishing. Source: Kendall et al., CVPR 2018, eq. 9,
    applied to synthetic videos; real ones keep weight 1.
    """
    return Lambda(
        start=lambda value: -math.log(value),
        value=lambda raw, step: jnp.exp(-raw),
        penalty=lambda lambda_: -jnp.log(lambda_),
    )


def meta(config: TrainConfig) -> Lambda:
    """Learned between 0 and 1 from held-out real videos: rises while synthetic ones help them.

    Let g_scaled be the gradient of the cost that lambda multiplies. To first order, an update at
    rate r along g + lambda g_scaled changes the held-out videos' loss by -r <g_held_out, g_scaled>
    per unit of lambda. So lambda's gradient is -<g_held_out, g_scaled>. Source: Ren et al., ICML
    2018, eq. 11, for one weight.

    Its size shrinks with both losses, by orders of magnitude within a run, while Adam's divisor
    remembers the first steps. So what is followed is its cosine, c. Adam's step on raw is then
    about rate x (mean of c / root mean square of c), at most the rate: at a rate of 1e-3, which
    is the detector's, 100 steps move raw by 0.1 at most, and lambda from 0.5 to 0.525. With the
    sigmoid's slope in c, n steps of one sign take raw from 0 to x with 2 x + 2 sinh x = 4 rate n.
    The default of 0.05 (config.META_RATE) takes lambda to 0.94 or 0.06 within 100 such steps,
    where signs at random move it by about 0.1: raw by rate x sqrt(n), 0.5.
    """
    return dataclasses.replace(sigmoid(config), from_held_out=True)


def auto(config: TrainConfig) -> Lambda:
    """Constant within a run, which chooses lambda before it starts (choosing.py)."""
    return fixed(config)


def mode(config: TrainConfig) -> Lambda:
    """Returns the config's way to set lambda."""
    make: Callable[[TrainConfig], Lambda] = globals()[config.lambda_mode]
    return make(config)


def init_lambda(config: TrainConfig) -> dict[str, jax.Array]:
    """Returns the learned scalar behind lambda; empty where nothing is learned."""
    start = mode(config).start
    return {} if start is None else {"lambda": jnp.asarray(start(config.lambda_value), jnp.float32)}


def lambda_of(params: Mapping[str, jax.Array], step: jax.Array, config: TrainConfig) -> jax.Array:
    """Returns the value of lambda at this step, a float32 scalar."""
    raw = params.get("lambda", jnp.zeros(()))
    return mode(config).value(raw, step).astype(jnp.float32)


def video_weights(synthetic_V: jax.Array, lambda_: jax.Array) -> jax.Array:
    """Returns each video's weight [V]: 1 - s + s lambda, where s is its synthetic share.

    Args:
      synthetic_V: 1 for a synthetic video, 0 for a real one, between for a mixture of both.
      lambda_: scalar.
    """
    require_rank(1, synthetic_V=synthetic_V)
    synthetic_V = jnp.asarray(synthetic_V, jnp.float32)
    return (1.0 - synthetic_V) + synthetic_V * lambda_


def term_value(term: Term, weights_V: jax.Array) -> jax.Array:
    """Computes a term's part of the total, each member weighted by its smallest video weight.

    Args:
      term: the term.
      weights_V: the videos' weights, see video_weights.

    Returns:
      Scalar: term.weight x mean over members of value x min(weights of its videos).
    """
    require_rank(1, values_M=term.values_M, weights_V=weights_V)
    require_rank(2, videos_MxJ=term.videos_MxJ)

    def member(value: jax.Array, videos_J: jax.Array) -> jax.Array:
        return value * jnp.min(weights_V[videos_J])

    return term.weight * jnp.mean(jax.vmap(member)(term.values_M, term.videos_MxJ))


def scaled_loss(
    terms: Mapping[str, Term], synthetic_Bx2: jax.Array, lambda_: jax.Array, config: TrainConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the total loss of a batch after SSLS.

    Args:
      terms: the detector's loss, by name.
      synthetic_Bx2: synthetic share of each pair's normal and abnormal video: 0 or 1, or between
        where videos are mixed.
      lambda_: scalar.
      config: fidelity and lambda's mode.

    Returns:
      (total, parts): the scalar to minimise, and by name each term's value before SSLS; `cost`,
      their sum; `cost_real`, the part of the cost whose members are all real; `cost_synthetic`, the
      rest; `cost_scaled`, the cost that lambda multiplies (for lambda up to 1).
    """
    require_rank(2, synthetic_Bx2=synthetic_Bx2)
    synthetic_V = synthetic_Bx2.reshape(-1)
    ones_V = jnp.ones_like(synthetic_V, jnp.float32)

    def weighted_sum(weights_V: jax.Array) -> jax.Array:
        return jnp.asarray(sum(term_value(term, weights_V) for term in terms.values()))

    parts = {name: term_value(term, ones_V) for name, term in terms.items()}
    cost = jnp.asarray(sum(parts.values()))
    cost_real = weighted_sum(video_weights(synthetic_V, jnp.zeros(())))
    parts |= {"cost": cost, "cost_real": cost_real, "cost_synthetic": cost - cost_real}
    if config.fidelity == "reference":
        share = jnp.mean(synthetic_Bx2[:, 1].astype(jnp.float32))
        total = cost * (1.0 - share) + lambda_ * cost * share
        parts["cost_scaled"] = cost * share
    else:
        share = jnp.mean(synthetic_V.astype(jnp.float32))
        total = weighted_sum(video_weights(synthetic_V, lambda_))
        parts["cost_scaled"] = parts["cost_synthetic"]
    if penalty := mode(config).penalty:
        total += share * penalty(lambda_)
    return total, parts
