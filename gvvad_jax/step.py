"""The training step and the scoring step: pure functions of their arguments.

One step: gather a batch of pairs from the arrays on the device, run the detector, weight its loss
terms by SSLS, update. Which devices it runs on is parallel.py's business.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from gvvad_jax import detectors, ssls
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors.mtn import Noise


@chex.dataclass(frozen=True)
class TrainingData:
    """All training videos, segmented; on the device.

    Attributes:
      visual_VxNxTxD: V videos, N crops, T segments.
      text_VxTxE: their text, None without.
      synthetic_V: whether each is generated.
      bank_KxE: embedded anomaly prompts, None without text.
    """

    visual_VxNxTxD: jax.Array
    text_VxTxE: jax.Array | None
    synthetic_V: jax.Array
    bank_KxE: jax.Array | None


@chex.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: steps done.
      params: {"detector": ..., "ssls": ...}.
      batch_stats: running statistics of the detector's BatchNorms.
      opt_state: of the optimiser.
      key: of dropout; in the state and not in the program, so that all seeds share one.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam with L2 coupled (added to the gradient), on every parameter, as PyTorch's Adam does."""
    return optax.chain(optax.add_decayed_weights(config.l2), optax.adam(config.learning_rate))


def init_state(config: TrainConfig, dim: int, text_dim: int) -> TrainState:
    """A fresh state, the same for the same seed.

    Args:
      config: the run's settings.
      dim: width of a visual row.
      text_dim: width of a text row; of no effect where text isn't used.
    """
    detector = detectors.by_name(config.detector).Detector(config)
    visual = jnp.zeros((1, 1, 8, dim))
    text = jnp.zeros((1, 8, text_dim)) if config.uses_text else None
    variables = jax.jit(detector.init)(jax.random.key(config.seed), visual, text)
    params = {"detector": variables["params"], "ssls": ssls.init_lambda(config)}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=make_optimizer(config).init(params),
        key=jax.random.PRNGKey(config.seed + 1),
    )


def unbiased_variance(old: Any, new: Any, count: int) -> Any:
    """Turns flax's running variances (biased) into PyTorch's (unbiased) after one update.

    Args:
      old: batch_stats before the step.
      new: batch_stats after it, momentum 0.9.
      count: values that each statistic was taken over.
    """

    def correct(path, old_leaf, new_leaf):
        if path[-1].key != "var":
            return new_leaf
        return 0.9 * old_leaf + (new_leaf - 0.9 * old_leaf) * count / (count - 1)

    return jax.tree_util.tree_map_with_path(correct, old, new)


def make_train_step(
    config: TrainConfig,
    *,
    axis_name: str | None = None,
    gather: Callable[[Any], Any] = lambda shard: shard,
) -> Callable[[TrainState, TrainingData, jax.Array, jax.Array], tuple[TrainState, dict]]:
    """The training step of this config.

    Args:
      config: the run's settings.
      axis_name: the device axis under pmap, else None.
      gather: turns a shard's arrays [of its videos, ...] into the global batch's, where the step
        sees a shard only.

    Returns:
      step(state, data, videos_Bx2, pairs_B) -> (state, metrics): the rows of `data` that make
      the batch's pairs (normal, abnormal), and the pairs' places in the global batch.
    """
    file = detectors.by_name(config.detector)
    detector = file.Detector(config, axis_name)
    optimizer = make_optimizer(config)

    def loss(params, batch_stats, batch: TrainingData, noise: Noise, whole: Noise):
        outputs, changed = detector.apply(
            {"params": params["detector"], "batch_stats": batch_stats},
            batch.visual_VxNxTxD,
            batch.text_VxTxE,
            noise=noise,
            train=True,
            mutable=["batch_stats"],
        )
        # LAP's threshold and triplets look at the whole batch, so the loss always does.
        outputs, text, synthetic_V = gather((outputs, batch.text_VxTxE, batch.synthetic_V))
        terms = file.loss_terms(outputs, text, batch.bank_KxE, config, whole)
        lambda_ = ssls.lambda_of(params["ssls"], config)
        total, parts = ssls.scaled_loss(terms, synthetic_V.reshape(-1, 2), lambda_, config.fidelity)
        return total, (changed.get("batch_stats", {}), parts | {"lambda": lambda_})

    def step(state: TrainState, data: TrainingData, videos_Bx2, pairs_B):
        chex.assert_shape(videos_Bx2, (None, 2))
        chex.assert_equal_shape_prefix([videos_Bx2, pairs_B], 1)
        batch = take(data, videos_Bx2.reshape(-1))
        key = jax.random.fold_in(state.key, state.step)
        videos_V = (2 * pairs_B[:, None] + jnp.arange(2)).reshape(-1)
        noise = Noise(key=key, videos_V=videos_V)
        whole = Noise(key=key, videos_V=gather(videos_V))
        (total, (batch_stats, parts)), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params, state.batch_stats, batch, noise, whole
        )
        if axis_name:
            grads = jax.lax.pmean(grads, axis_name)
        if config.fidelity == "reference":
            crops, segments = batch.visual_VxNxTxD.shape[1:3]
            count = len(whole.videos_V) * crops * segments
            batch_stats = unbiased_variance(state.batch_stats, batch_stats, count)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            key=state.key,
        )
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(state.params),
            "update_norm": optax.tree.norm(updates),
        }
        return state, {"loss": total, **parts, **norms}

    return step


def take(data: TrainingData, videos_V: jax.Array) -> TrainingData:
    """The rows of some videos, in their order."""
    return data.replace(
        visual_VxNxTxD=data.visual_VxNxTxD[videos_V].astype(jnp.float32),
        text_VxTxE=None
        if data.text_VxTxE is None
        else data.text_VxTxE[videos_V].astype(jnp.float32),
        synthetic_V=data.synthetic_V[videos_V],
    )


def make_score_step(config: TrainConfig) -> Callable[..., jax.Array]:
    """score(params, batch_stats, visual_VxNxTxD, text_VxTxE, mask_VxT) -> scores_VxT, jitted."""
    detector = detectors.by_name(config.detector).Detector(config)

    @jax.jit
    def score(params, batch_stats, visual_VxNxTxD, text_VxTxE, mask_VxT):
        variables = {"params": params["detector"], "batch_stats": batch_stats}
        return detector.apply(variables, visual_VxNxTxD, text_VxTxE, mask_VxT).scores_VxT

    return score
