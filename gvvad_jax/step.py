"""The training step and the scoring step: pure functions of their arguments.

A training step gathers a batch of pairs from the arrays on the device, runs the detector, weights
its loss terms by SSLS and updates the parameters. parallel.py decides on which devices it runs.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from gvvad_jax import detectors, losses, ssls
from gvvad_jax.batches import Batch
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors.layers import Noise
from gvvad_jax.optimizer import make_optimizer

# A tree of arrays.
PyTree = Any
# The function rows_at below, or one that does the same for arrays split over devices.
RowsAt = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
Metrics = dict[str, jax.Array]
# Videos x crops x snippets that are scored with all crops at once. A text stream runs once for all
# crops then, and once for each where they are taken one at a time.
CROPS_AT_ONCE = 16384


class TrainingData(struct.PyTreeNode, kw_only=True):
    """Segmented training videos on the device: all of them, or those of one batch.

    Attributes:
      visual_VxNxTxD: visual features of V videos, N crops, T segments.
      text_VxTxE: text features; None where text isn't used.
      stream_VxTxE: text features as the text stream takes them; None where as `text_VxTxE`.
      synthetic_V: whether each video is generated; a share between 0 and 1 for a mixture.
      bank_KxE: embedded anomaly prompts; None where text isn't used.
    """

    visual_VxNxTxD: jax.Array
    text_VxTxE: jax.Array | None
    synthetic_V: jax.Array
    bank_KxE: jax.Array | None
    stream_VxTxE: jax.Array | None = None


class TrainState(struct.PyTreeNode, kw_only=True):
    """Everything that a training step changes.

    Attributes:
      step: number of steps done.
      params: {"detector": the detector's parameters, "ssls": those of lambda}.
      batch_stats: running statistics of the detector's BatchNorms.
      opt_state: the optimiser's state.
      averaged: {"params": the detector's, "batch_stats": ...}, averaged over the steps; empty
        without --ema.
      key: random key of dropout. It is part of the state and not of the compiled program, so that
        runs with different seeds share one program.
    """

    step: jax.Array
    params: Mapping[str, PyTree]
    batch_stats: PyTree
    opt_state: PyTree
    averaged: Mapping[str, PyTree]
    key: jax.Array


def cast(tree: PyTree, dtype: jax.typing.DTypeLike) -> PyTree:
    """Casts the floating-point arrays of a tree to `dtype`; the others stay."""

    def cast_leaf(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast_leaf, tree)


def init_state(config: TrainConfig, dim: int, text_dim: int) -> TrainState:
    """Makes a fresh state, which is the same for the same seed.

    Args:
      config: the run's settings.
      dim: width of a visual row.
      text_dim: width of a text row; it has no effect where text isn't used.
    """
    visual = jnp.zeros((1, 1, 8, dim))
    text = jnp.zeros((1, 8, text_dim)) if config.uses_text else None
    init = _compiled_init(config.scoring_program)
    variables = init(jax.random.key(config.seed), visual, text)
    return state_of(config, variables["params"], variables.get("batch_stats", {}))


@functools.lru_cache(maxsize=8)
def _compiled_init(program: TrainConfig) -> Callable[..., PyTree]:
    init: Callable[..., PyTree] = jax.jit(
        detectors.by_name(program.detector).Detector(program).init
    )
    return init


def state_of(config: TrainConfig, params: PyTree, batch_stats: PyTree) -> TrainState:
    """Makes a state at step 0 with the given parameters and statistics of the detector."""
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


def unbiased_variance(old: PyTree, new: PyTree, count: int) -> PyTree:
    """Turns Flax's running variances (biased) into PyTorch's (unbiased) after one update.

    Args:
      old: batch_stats before the step.
      new: batch_stats after it, with momentum 0.9.
      count: number of values that each statistic was taken over.
    """

    def correct(path: Any, old_leaf: jax.Array, new_leaf: jax.Array) -> jax.Array:
        if path[-1].key != "var":
            return new_leaf
        return 0.9 * old_leaf + (new_leaf - 0.9 * old_leaf) * count / (count - 1)

    return jax.tree_util.tree_map_with_path(correct, old, new)


def scoring_variables(state: TrainState) -> Mapping[str, PyTree]:
    """Returns the variables to score with: averaged ones where there are any, else the last."""
    return state.averaged or {"params": state.params["detector"], "batch_stats": state.batch_stats}


def make_loss(
    config: TrainConfig, axis_name: str | None, gather: Callable[[PyTree], PyTree]
) -> Callable[..., tuple[jax.Array, tuple[PyTree, Metrics]]]:
    """Makes the loss of a batch; see make_train_step for the arguments.

    Returns:
      loss(params, lambda_, batch_stats, videos, noise) -> (values, (batch_stats, parts)): values
      are [total, cost_real, cost_synthetic, cost_scaled], parts are those of ssls.scaled_loss.
    """
    module = detectors.by_name(config.detector)
    detector = module.Detector(config, axis_name)

    def loss(
        params: PyTree,
        lambda_: jax.Array,
        batch_stats: PyTree,
        videos: TrainingData,
        noise: Noise | None,
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        # The detector multiplies in config.precision. Statistics, losses and gradients keep the
        # precision of the parameters.
        # Of a mixture, the larger part counts.
        stream_VxTxE = videos.stream_VxTxE
        generated_V = videos.synthetic_V > 0.5 if config.normalises_by_domain else None
        outputs, changed = detector.apply(
            {"params": cast(params, config.precision), "batch_stats": batch_stats},
            cast(videos.visual_VxNxTxD, config.precision),
            cast(videos.text_VxTxE if stream_VxTxE is None else stream_VxTxE, config.precision),
            noise=noise,
            train=True,
            generated_V=generated_V,
            mutable=["batch_stats"],
        )
        if generated_V is not None:
            outputs = outputs.replace(extra={**outputs.extra, "generated": generated_V})
        outputs = cast(outputs, jnp.promote_types(config.precision, jnp.float32))
        # LAP's threshold and triplets need the whole batch, so every loss is given it.
        outputs, text, synthetic_V = gather((outputs, videos.text_VxTxE, videos.synthetic_V))
        terms = module.loss_terms(outputs, text, videos.bank_KxE, config)
        terms = losses.weigh_labels(terms, config.normal_weight, config.abnormal_weight)
        total, parts = ssls.scaled_loss(terms, synthetic_V.reshape(-1, 2), lambda_, config)
        costs = [parts[name] for name in ("cost_real", "cost_synthetic", "cost_scaled")]
        values = jnp.stack([total, *costs])
        return values, (changed.get("batch_stats", {}), parts)

    return loss


def rows_at(array_Vx: jax.Array, videos_M: jax.Array, crops_k: jax.Array | None) -> jax.Array:
    """Gathers the rows of some videos; some of their crops, or all for None."""
    return array_Vx[videos_M] if crops_k is None else array_Vx[videos_M[:, None], crops_k]


def make_gradients(
    config: TrainConfig,
    axis_name: str | None,
    gather: Callable[[PyTree], PyTree],
    rows_at: RowsAt,
) -> Callable[..., tuple[PyTree, PyTree, Metrics]]:
    """Makes the gradients of a batch; see make_train_step for the arguments.

    Returns:
      gradients(state, data, batch, noise) -> (grads, batch_stats, metrics): grads of all
      parameters, and the statistics after the step.
    """
    loss = make_loss(config, axis_name, gather)

    def mean(grads: PyTree) -> PyTree:
        return jax.lax.pmean(grads, axis_name) if axis_name else grads

    def gradients(
        state: TrainState, data: TrainingData, batch: Batch, noise: Noise
    ) -> tuple[PyTree, PyTree, Metrics]:
        crops_k = choose_crops(data, noise, config)
        videos = mixed_videos(data, batch, crops_k, rows_at)
        params = state.params["detector"]
        lambda_, pull_raw = jax.vjp(
            lambda raw: ssls.lambda_of(raw, state.step, config), state.params["ssls"]
        )

        def batch_loss(
            params: PyTree, lambda_: jax.Array
        ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
            return loss(params, lambda_, state.batch_stats, videos, noise)

        def held_out_cost(params: PyTree) -> jax.Array:
            held_out = take(data, batch.held_out_Bx2.reshape(-1), crops_k, rows_at)
            return loss(params, lambda_, state.batch_stats, held_out, None)[0][1]

        values, pull, (batch_stats, parts) = jax.vjp(batch_loss, params, lambda_, has_aux=True)
        total, real, synthetic, scaled = jnp.eye(4)
        grads, lambda_gradient = mean(pull(total))
        raw_gradient = lambda_gradient
        more: Metrics = {}
        real_grads: PyTree = None
        if config.log_gradients or config.conflicts != "keep":
            real_grads = mean(pull(real)[0])
        if config.log_gradients:
            more |= compare_gradients(real_grads, mean(pull(synthetic)[0]))
        if config.conflicts != "keep":
            grads, more["conflict"] = _settled(config, grads, real_grads, lambda_)
        if ssls.mode(config).from_held_out:
            held_out_grads = mean(jax.grad(held_out_cost)(params))
            scaled_grads = mean(pull(scaled)[0])
            if config.conflicts != "keep":
                scaled_grads, _ = project(scaled_grads, real_grads)
            lambda_gradient = -optax.tree.vdot(held_out_grads, scaled_grads)
            more["held_out_cosine"] = cosine(held_out_grads, scaled_grads)
            raw_gradient = -more["held_out_cosine"]
        grads = {"detector": grads, "ssls": pull_raw(raw_gradient.astype(lambda_.dtype))[0]}
        if config.fidelity == "reference":
            count = gather(noise.videos_V).size * math.prod(videos.visual_VxNxTxD.shape[1:3])
            batch_stats = unbiased_variance(state.batch_stats, batch_stats, count)
        metrics = {"loss": values[0], "lambda": lambda_, "lambda_gradient": lambda_gradient}
        return grads, batch_stats, metrics | parts | more

    return gradients


def make_train_step(
    config: TrainConfig,
    *,
    axis_name: str | None = None,
    gather: Callable[[PyTree], PyTree] = lambda shard: shard,
    rows_at: RowsAt = rows_at,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Makes the training step of a config.

    Args:
      config: the run's settings.
      axis_name: the device axis under pmap, else None.
      gather: turns a shard's arrays [videos of the shard, ...] into the global batch's; needed
        where the step sees only a shard.
      rows_at: another way to gather rows, needed where the training data is split over devices.

    Returns:
      step(state, data, batch, numbers) -> (state, metrics). `numbers` replace the config's
      (TrainConfig.numbers); a compiled step takes them as arguments, so that runs which differ in
      them alone share one program. Without them the config's own are constants.
    """

    @jax.default_matmul_precision(config.matmul_precision)
    def step(
        state: TrainState,
        data: TrainingData,
        batch: Batch,
        numbers: Mapping[str, jax.typing.ArrayLike] | None = None,
    ) -> tuple[TrainState, Metrics]:
        numbered = config.with_numbers(numbers or config.numbers)
        gradients = make_gradients(numbered, axis_name, gather, rows_at)
        optimizer = make_optimizer(numbered)
        places_V = (2 * batch.pairs_B[:, None] + jnp.arange(2)).reshape(-1)
        noise = Noise(key=jax.random.fold_in(state.key, state.step), videos_V=places_V)
        grads, batch_stats, metrics = gradients(state, data, batch, noise)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        state = state.replace(averaged=average(state, config.ema))
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(state.params),
            "update_norm": optax.tree.norm(updates),
        }
        return state, metrics | norms

    return step


def average(state: TrainState, decay: float) -> Mapping[str, PyTree]:
    """Updates the averaged parameters after a step; empty where `decay` is 0.

    For the first steps n the decay is at most (1 + n) / (10 + n), so that the random initial
    parameters are soon forgotten.
    """
    if not decay:
        return {}
    n = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    now = {"params": state.params["detector"], "batch_stats": state.batch_stats}
    return jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, state.averaged, now)


def cosine(left: PyTree, right: PyTree) -> jax.Array:
    """Returns the cosine of two gradients, each taken as one vector; 0 where one of them is 0."""
    product = optax.tree.norm(left) * optax.tree.norm(right)
    inner = optax.tree.vdot(left, right)
    return jnp.where(product > 0, inner / jnp.where(product > 0, product, 1.0), 0.0)


def compare_gradients(real: PyTree, synthetic: PyTree) -> Metrics:
    """Compares the detector's gradients of the real and the synthetic cost, before lambda.

    Returns:
      `grad_norm_real`, `grad_norm_synthetic` and `grad_cosine`, which is 0 where a norm is 0.
    """
    return {
        "grad_norm_real": optax.tree.norm(real),
        "grad_norm_synthetic": optax.tree.norm(synthetic),
        "grad_cosine": cosine(real, synthetic),
    }


def project(added: PyTree, real: PyTree) -> tuple[PyTree, jax.Array]:
    """Projects what generated videos add to a gradient off the real gradient, if they conflict.

    They conflict where <added, real> < 0. Then `added` becomes added - <added, real> / |real|^2
    real, which to first order leaves the real cost to the real videos. The detector's parameters
    are one vector, as in the paper: by tensors, rounding would decide where a gradient is 0 but for
    it. Source: PCGrad, Yu et al., NeurIPS 2020, algorithm 1; only the synthetic gradient gives way.

    Returns:
      (the gradient to add, 1.0 where it was projected and else 0.0).
    """
    inner, square = optax.tree.vdot(added, real), optax.tree.vdot(real, real)
    conflict = (inner < 0) & (square > 0)
    factor = jnp.where(conflict, inner / jnp.where(conflict, square, 1.0), 0.0)
    projected = jax.tree.map(lambda a, r: a - factor.astype(r.dtype) * r, added, real)
    return projected, conflict.astype(jnp.float32)


def _settled(
    config: TrainConfig, grads: PyTree, real: PyTree, lambda_: jax.Array
) -> tuple[PyTree, jax.Array]:
    """Settles conflicts of the whole gradient with the real videos' as --conflicts says.

    Returns:
      (the gradient, 1.0 where they disagreed and else 0.0).
    """
    added, disagree = project(optax.tree.sub(grads, real), real)
    if config.conflicts == "limit":
        added = limit(added, real, lambda_)
    return optax.tree.add(real, added), disagree


def limit(added: PyTree, real: PyTree, lambda_: jax.Array) -> PyTree:
    """Shortens what generated videos add to a gradient to lambda times the real gradient's length.

    Adam divides a gradient by its usual size, so once real videos cost nothing, lambda no longer
    matters: generated ones alone would move the parameters, at the full rate.
    """
    length = optax.tree.norm(added)
    most = jnp.abs(lambda_) * optax.tree.norm(real)
    factor = jnp.where(length > most, most / jnp.where(length > most, length, 1.0), 1.0)
    return jax.tree.map(lambda a: factor.astype(a.dtype) * a, added)


def choose_crops(data: TrainingData, noise: Noise, config: TrainConfig) -> jax.Array | None:
    """Chooses the crops that a step sees [k]; None for all of them.

    They are the same for every video, because LAP's and UR-DMU's triplets compare videos crop by
    crop.
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
    """Gathers some videos in the given order; some of their crops, or all for None."""
    chex.assert_rank(videos_M, 1)

    def rows(array_Vx: jax.Array | None) -> jax.Array | None:
        return None if array_Vx is None else rows_at(array_Vx, videos_M, None)

    return data.replace(
        visual_VxNxTxD=rows_at(data.visual_VxNxTxD, videos_M, crops_k),
        text_VxTxE=rows(data.text_VxTxE),
        stream_VxTxE=rows(data.stream_VxTxE),
        synthetic_V=rows_at(data.synthetic_V.astype(jnp.float32), videos_M, None),
    )


def mixed_videos(
    data: TrainingData,
    batch: Batch,
    crops_k: jax.Array | None = None,
    rows_at: RowsAt = rows_at,
) -> TrainingData:
    """Gathers the videos of a batch, each mixed with its partner where the batch has partners."""
    videos = take(data, batch.videos_Bx2.reshape(-1), crops_k, rows_at)
    if batch.partners_Bx2 is None:
        return videos
    partners = take(data, batch.partners_Bx2.reshape(-1), crops_k, rows_at)

    def mix(own_Vx: jax.Array, partner_Vx: jax.Array) -> jax.Array:
        share_Vx = batch.shares_Bx2.reshape(-1, *[1] * (own_Vx.ndim - 1))
        return share_Vx * own_Vx + (1.0 - share_Vx) * partner_Vx

    return videos.replace(
        visual_VxNxTxD=mix(videos.visual_VxNxTxD, partners.visual_VxNxTxD),
        text_VxTxE=jax.tree.map(mix, videos.text_VxTxE, partners.text_VxTxE),
        stream_VxTxE=jax.tree.map(mix, videos.stream_VxTxE, partners.stream_VxTxE),
        synthetic_V=mix(videos.synthetic_V, partners.synthetic_V),
    )


def make_score_step(config: TrainConfig) -> Callable[..., jax.Array]:
    """Makes score(variables, visual_VxNxTxD, text_VxTxE, mask_VxT) -> scores_VxT, jitted.

    Beyond CROPS_AT_ONCE the crops are scored one at a time: a score is the mean of its crops'.
    With `score_crops` "mean" their mean feature is scored instead.
    Models of the same detector share the function, and so its compiled programs.
    """
    return _compiled_score(config.scoring_program)


@functools.lru_cache(maxsize=8)
def _compiled_score(program: TrainConfig) -> Callable[..., jax.Array]:
    detector = detectors.by_name(program.detector).Detector(program)

    @jax.jit
    @jax.default_matmul_precision(program.matmul_precision)
    def score(
        variables: Mapping[str, PyTree],
        visual_VxNxTxD: jax.Array,
        text_VxTxE: jax.Array | None,
        mask_VxT: jax.Array | None,
    ) -> jax.Array:
        def scores(visual_VxNxTxD: jax.Array) -> jax.Array:
            return detector.apply(variables, visual_VxNxTxD, text_VxTxE, mask_VxT).scores_VxT

        if program.score_crops == "mean":
            visual_VxNxTxD = jnp.mean(visual_VxNxTxD, axis=1, keepdims=True)
        if math.prod(visual_VxNxTxD.shape[:3]) <= CROPS_AT_ONCE:
            return scores(visual_VxNxTxD)

        def crop_scores(crop: jax.Array) -> jax.Array:
            return scores(jax.lax.dynamic_slice_in_dim(visual_VxNxTxD, crop, 1, axis=1))

        scores_NxVxT = jax.lax.map(crop_scores, jnp.arange(visual_VxNxTxD.shape[1]))
        return jnp.mean(scores_NxVxT, axis=0)

    return score
