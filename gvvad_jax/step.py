"""The training step and the scoring step: pure functions of their arguments.

One step: gather a batch of pairs from the arrays on the device, run the detector, weight its loss
terms by SSLS, update. Which devices it runs on is parallel.py's business.
"""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from gvvad_jax import detectors, losses, ssls
from gvvad_jax.batches import Batch
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors.layers import Noise
from gvvad_jax.optimizer import make_optimizer

# The function rows_at below, or one like it.
RowsAt = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


@chex.dataclass(frozen=True)
class TrainingData:
    """Training videos, segmented; on the device. All of them, or those of one batch.

    Attributes:
      visual_VxNxTxD: V videos, N crops, T segments.
      text_VxTxE: their text, None without.
      synthetic_V: whether each is generated; a share between 0 and 1 where it is a mixture.
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
      averaged: {"params": the detector's, "batch_stats": ...}, averaged over the steps; empty
        unless --ema.
      key: of dropout; in the state and not in the program, so that all seeds share one.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    averaged: Any
    key: jax.Array


def cast(tree: Any, dtype: Any) -> Any:
    """Arrays of another precision; what isn't floating-point stays."""

    def of_leaf(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(of_leaf, tree)


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
    return state_of(config, variables["params"], variables.get("batch_stats", {}))


def state_of(config: TrainConfig, params: Any, batch_stats: Any) -> TrainState:
    """A state at step 0 with these parameters of the detector."""
    if config.precision == "float64":
        params, batch_stats = cast((params, batch_stats), jnp.float64)
    trained = {"detector": params, "ssls": ssls.init_lambda(config)}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trained,
        batch_stats=batch_stats,
        opt_state=make_optimizer(config).init(trained),
        averaged={"params": params, "batch_stats": batch_stats} if config.ema else {},
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


def scoring_variables(state: TrainState) -> dict[str, Any]:
    """What scores: the averaged parameters where there are any, else the last ones."""
    return state.averaged or {"params": state.params["detector"], "batch_stats": state.batch_stats}


def make_loss(
    config: TrainConfig, axis_name: str | None, gather: Callable[[Any], Any]
) -> Callable[..., tuple[jax.Array, tuple[Any, dict]]]:
    """The loss of a batch; see make_train_step for the arguments.

    Returns:
      loss(params, lambda_, batch_stats, videos, noise) -> (values, (batch_stats, parts)): values
      are [total, cost_real, cost_synthetic, cost_scaled], parts those of ssls.scaled_loss.
    """
    file = detectors.by_name(config.detector)
    detector = file.Detector(config, axis_name)

    def loss(params, lambda_, batch_stats, videos: TrainingData, noise: Noise | None):
        # Multiplied in the precision asked for; statistics, losses and gradients as they are kept.
        outputs, changed = detector.apply(
            {"params": cast(params, config.precision), "batch_stats": batch_stats},
            cast(videos.visual_VxNxTxD, config.precision),
            cast(videos.text_VxTxE, config.precision),
            noise=noise,
            train=True,
            mutable=["batch_stats"],
        )
        outputs = cast(outputs, jnp.promote_types(config.precision, jnp.float32))
        # LAP's threshold and triplets look at the whole batch, so the loss always does.
        outputs, text, synthetic_V = gather((outputs, videos.text_VxTxE, videos.synthetic_V))
        terms = file.loss_terms(outputs, text, videos.bank_KxE, config)
        terms = losses.weigh_labels(terms, config.normal_weight, config.abnormal_weight)
        total, parts = ssls.scaled_loss(terms, synthetic_V.reshape(-1, 2), lambda_, config)
        costs = [parts[name] for name in ("cost_real", "cost_synthetic", "cost_scaled")]
        values = jnp.stack([total, *costs])
        return values, (changed.get("batch_stats", {}), parts)

    return loss


def rows_at(array_Vx: jax.Array, videos_M: jax.Array, crops_k: jax.Array | None) -> jax.Array:
    """The rows of some videos, all their crops or some."""
    return array_Vx[videos_M] if crops_k is None else array_Vx[videos_M[:, None], crops_k]


def make_train_step(
    config: TrainConfig,
    *,
    axis_name: str | None = None,
    gather: Callable[[Any], Any] = lambda shard: shard,
    rows_at: RowsAt = rows_at,
) -> Callable[[TrainState, TrainingData, Batch], tuple[TrainState, dict]]:
    """The training step of this config.

    Args:
      config: the run's settings.
      axis_name: the device axis under pmap, else None.
      gather: turns a shard's arrays [of its videos, ...] into the global batch's, where the step
        sees a shard only.
      rows_at: where the training data is split over devices, another that finds rows anywhere.

    Returns:
      step(state, data, batch) -> (state, metrics).
    """
    loss = make_loss(config, axis_name, gather)
    optimizer = make_optimizer(config)

    def mean(grads):
        return jax.lax.pmean(grads, axis_name) if axis_name else grads

    def step(state: TrainState, data: TrainingData, batch: Batch):
        places_V = (2 * batch.pairs_B[:, None] + jnp.arange(2)).reshape(-1)
        noise = Noise(key=jax.random.fold_in(state.key, state.step), videos_V=places_V)
        videos = mixed(data, batch, noise, config, rows_at)
        params = state.params["detector"]
        lambda_, to_raw = jax.vjp(
            lambda raw: ssls.lambda_of(raw, state.step, config), state.params["ssls"]
        )

        def of_batch(params, lambda_):
            return loss(params, lambda_, state.batch_stats, videos, noise)

        def of_held_out(params):
            crops_k = crops(data, noise, config)
            held_out = take(data, batch.held_out_Bx2.reshape(-1), crops_k, rows_at)
            return loss(params, lambda_, state.batch_stats, held_out, None)[0][1]

        values, pull, (batch_stats, parts) = jax.vjp(of_batch, params, lambda_, has_aux=True)
        total, real, synthetic, scaled = jnp.eye(4)
        grads, lambda_gradient = mean(pull(total))
        logged = {}
        if config.log_gradients:
            logged = compare_gradients(mean(pull(real)[0]), mean(pull(synthetic)[0]))
        if ssls.mode(config).from_held_out:
            helpful = mean(jax.grad(of_held_out)(params))
            lambda_gradient = -optax.tree.vdot(helpful, mean(pull(scaled)[0]))
        grads = {"detector": grads, "ssls": to_raw(lambda_gradient.astype(lambda_.dtype))[0]}
        if config.fidelity == "reference":
            count = gather(places_V).size * math.prod(videos.visual_VxNxTxD.shape[1:3])
            batch_stats = unbiased_variance(state.batch_stats, batch_stats, count)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        state = state.replace(averaged=average(state, config.ema))
        ours = {"loss": values[0], "lambda": lambda_, "lambda_gradient": lambda_gradient}
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(state.params),
            "update_norm": optax.tree.norm(updates),
        }
        return state, {**ours, **parts, **norms, **logged}

    return step


def average(state: TrainState, decay: float) -> Any:
    """The averaged parameters after a step.

    Early on the decay is smaller, (1 + n) / (10 + n), so that the first random parameters are
    soon forgotten.
    """
    if not decay:
        return {}
    n = state.step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    now = {"params": state.params["detector"], "batch_stats": state.batch_stats}
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.averaged, now)


def compare_gradients(of_real: Any, of_synthetic: Any) -> dict[str, jax.Array]:
    """Norms and cosine of the detector's gradients by source, before lambda; cosine 0 at 0."""
    real, synthetic = optax.tree.norm(of_real), optax.tree.norm(of_synthetic)
    product = real * synthetic
    inner = optax.tree.vdot(of_real, of_synthetic)
    return {
        "grad_norm_real": real,
        "grad_norm_synthetic": synthetic,
        "grad_cosine": jnp.where(product > 0, inner / jnp.where(product > 0, product, 1.0), 0.0),
    }


def crops(data: TrainingData, noise: Noise, config: TrainConfig) -> jax.Array | None:
    """The crops that this step sees [k], the same of every video; None for all of them.

    The same, because LAP's and UR-DMU's triplets compare videos crop by crop.
    """
    num_crops = data.visual_VxNxTxD.shape[1]
    if not config.train_crops or config.train_crops >= num_crops:
        return None
    order_N = jax.random.permutation(jax.random.fold_in(noise.key, 1000), num_crops)
    return order_N[: config.train_crops]


def take(
    data: TrainingData,
    videos_M: jax.Array,
    crops_k: jax.Array | None = None,
    rows_at: RowsAt = rows_at,
) -> TrainingData:
    """Some videos in their order, all their crops or some."""
    chex.assert_rank(videos_M, 1)
    text_VxTxE = data.text_VxTxE
    return data.replace(
        visual_VxNxTxD=rows_at(data.visual_VxNxTxD, videos_M, crops_k),
        text_VxTxE=None if text_VxTxE is None else rows_at(text_VxTxE, videos_M, None),
        synthetic_V=rows_at(data.synthetic_V.astype(jnp.float32), videos_M, None),
    )


def mixed(
    data: TrainingData,
    batch: Batch,
    noise: Noise,
    config: TrainConfig,
    rows_at: RowsAt = rows_at,
) -> TrainingData:
    """The videos of a batch, mixed with their partners where the batch has any."""
    crops_k = crops(data, noise, config)
    videos = take(data, batch.videos_Bx2.reshape(-1), crops_k, rows_at)
    if batch.partners_Bx2 is None:
        return videos
    partners = take(data, batch.partners_Bx2.reshape(-1), crops_k, rows_at)

    def mix(own_Vx, partner_Vx):
        share_Vx = batch.shares_Bx2.reshape(-1, *[1] * (own_Vx.ndim - 1))
        return share_Vx * own_Vx + (1.0 - share_Vx) * partner_Vx

    with_text = videos.text_VxTxE is not None
    return videos.replace(
        visual_VxNxTxD=mix(videos.visual_VxNxTxD, partners.visual_VxNxTxD),
        text_VxTxE=mix(videos.text_VxTxE, partners.text_VxTxE) if with_text else None,
        synthetic_V=mix(videos.synthetic_V, partners.synthetic_V),
    )


def make_score_step(config: TrainConfig) -> Callable[..., jax.Array]:
    """score(variables, visual_VxNxTxD, text_VxTxE, mask_VxT) -> scores_VxT, jitted."""
    detector = detectors.by_name(config.detector).Detector(config)

    @jax.jit
    def score(variables, visual_VxNxTxD, text_VxTxE, mask_VxT):
        return detector.apply(variables, visual_VxNxTxD, text_VxTxE, mask_VxT).scores_VxT

    return score
