"""The optimiser and the learning-rate schedule."""

from collections.abc import Callable

import jax
import optax

from gvvad_jax import ssls
from gvvad_jax.config import TrainConfig


def learning_rate(config: TrainConfig, peak: float) -> Callable[[jax.Array], jax.Array]:
    """Makes the schedule: step -> rate, a linear warm-up to `peak`, then the config's schedule."""
    warmup, steps = config.warmup_steps, config.steps - config.warmup_steps
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, steps),
        "linear": optax.linear_schedule(peak, 0.0, steps),
        "step": optax.piecewise_constant_schedule(peak, {steps // 2: 0.1, steps * 3 // 4: 0.1}),
    }[config.learning_rate_schedule]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Makes Adam, or Adagrad, with coupled L2.

    Coupled, as in PyTorch, means that L2 is added to the gradient of every parameter. Lambda has
    its own learning rate with --lambda_learning_rate, is never clipped, and has L2 only in the
    modes that ask for it (ssls.Lambda.decayed).
    """
    published = config.detector == "mil_rank" and config.fidelity == "reference"
    adagrad = config.optimizer == "adagrad" or (config.optimizer == "auto" and published)

    def make(peak: float, l2: float, clip_norm: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
            optax.add_decayed_weights(l2),
            optax.scale_by_rss(0.0, 1e-10) if adagrad else optax.scale_by_adam(),
            optax.scale_by_learning_rate(learning_rate(config, peak)),
        )

    detector = make(config.learning_rate, config.l2, config.clip_norm)
    lambda_ = make(
        config.numbers["lambda_learning_rate"],
        config.l2 if ssls.mode(config).decayed else 0.0,
        clip_norm=0.0,
    )
    kinds = {"detector": detector, "ssls": lambda_}
    return optax.partition(kinds, {kind: kind for kind in kinds})
