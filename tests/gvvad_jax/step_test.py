"""The training step: shapes, one trace, known numbers, what reaches the parameters."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gvvad_jax import detectors, ssls, step
from gvvad_jax.batches import Batch, Batches
from gvvad_jax.config import DETECTORS, TrainConfig
from gvvad_jax.detectors.layers import Noise
from gvvad_jax.optimizer import learning_rate, make_optimizer
from tests.support import steps
from tests.support.steps import SMALL, make_data

BATCH = Batch(videos_Bx2=jnp.array([[0, 1], [2, 3]]), pairs_B=jnp.arange(2))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_steps_keep_shapes_trace_once_and_lower_the_loss(name, fidelity):
    config = TrainConfig(detector=name, fidelity=fidelity, dropout=0.0, **SMALL)
    state = step.init_state(config, 12, 8)
    chex.clear_trace_counter()
    train_step = jax.jit(chex.assert_max_traces(step.make_train_step(config), n=1))
    first = state
    losses = []
    for _ in range(8):
        state, metrics = train_step(state, make_data(), BATCH)
        losses.append(float(metrics["loss"]))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
    chex.assert_tree_all_finite(state.params)
    assert int(state.step) == 8
    assert losses[-1] < losses[0]
    assert {"loss", "cost", "cost_real", "cost_synthetic", "lambda", "grad_norm"} <= set(metrics)
    chex.assert_shape(list(metrics.values()), ())


def test_the_same_seed_gives_the_same_steps_and_another_does_not():
    config = TrainConfig(detector="mil_rank", **SMALL)
    train_step = steps.train_step(config)

    def run(seed):
        state = step.init_state(dataclasses.replace(config, seed=seed), 12, 8)
        return float(train_step(state, make_data(), BATCH)[1]["loss"])

    zero = run(0)
    assert run(0) == zero
    assert run(1) != zero


@pytest.mark.parametrize("mode", ["fixed", "sigmoid"])
def test_numbers_are_arguments_and_give_what_constants_give(mode):
    numbers = {"lambda_value": 0.3, "l2": 0.1, "learning_rate": 0.01, "lambda_learning_rate": 0.2}
    numbers |= {"abnormal_weight": 0.5}
    config = TrainConfig(detector="mil_rank", lambda_mode=mode, **SMALL | numbers)
    state = step.init_state(config, 12, 8)
    constants, _ = steps.train_step(config)(state, make_data(), BATCH)
    compiled = jax.jit(step.make_train_step(config.program))
    arguments, _ = compiled(state, make_data(), BATCH, config.numbers)
    chex.assert_trees_all_close(arguments.params, constants.params, rtol=1e-4, atol=1e-6)
    others, _ = compiled(state, make_data(), BATCH, config.program.numbers)
    assert compiled._cache_size() == 1
    moved = [
        optax.tree.norm(optax.tree.sub(each.params, state.params)) for each in (others, arguments)
    ]
    # Ten times the learning rate, in Adam's first step.
    assert moved[1] > 5 * moved[0]


def test_weight_decay_is_coupled_as_in_pytorch():
    """One step by hand: Adam's first update is lr * sign(gradient + l2 * parameter)."""
    optimizer = make_optimizer(TrainConfig(learning_rate=0.1, l2=0.5))
    params = {"detector": {"w": jnp.array([2.0, -2.0])}, "ssls": {}}
    grads = {"detector": {"w": jnp.array([-0.9, 0.9])}, "ssls": {}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # Coupled: -0.9 + 0.5 * 2 = 0.1 > 0, so down. AdamW would go up.
    np.testing.assert_allclose(updates["detector"]["w"], [-0.1, 0.1], rtol=1e-4)


def _parameter_gradient(name):
    """(lambda, data) -> gradient of the loss, BatchNorm's statistics and selections held fixed."""
    config = TrainConfig(detector=name, **SMALL)
    state = step.init_state(config, 12, 8)
    file = detectors.by_name(name)

    def loss(params, lambda_, data):
        variables = {"params": params, "batch_stats": state.batch_stats}
        batch = step.take(data, BATCH.videos_Bx2.reshape(-1))
        visual, text = batch.visual_VxNxTxD, batch.text_VxTxE
        outputs = file.Detector(config).apply(variables, visual, text)
        terms = file.loss_terms(outputs, text, data.bank_KxE, config)
        synthetic_Bx2 = batch.synthetic_V.reshape(-1, 2)
        return ssls.scaled_loss(terms, synthetic_Bx2, lambda_, config)[0]

    gradient = jax.jit(jax.grad(loss))
    return lambda lambda_, data: gradient(state.params["detector"], lambda_, data)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_parameters_gradient_is_linear_in_lambda(name):
    gradient, data = _parameter_gradient(name), make_data()
    zero, half, one = (gradient(x, data) for x in (0.0, 0.5, 1.0))
    expected = jax.tree.map(lambda a, b: (a + b) / 2, zero, one)
    chex.assert_trees_all_close(half, expected, atol=1e-6)
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), zero, one)
    assert max(jax.tree.leaves(difference)) > 1e-3


def test_at_lambda_zero_a_synthetic_videos_features_reach_no_parameter():
    """But for BatchNorm's statistics, which are held fixed here."""
    gradient, data = _parameter_gradient("rtfm"), make_data()
    # Videos 2 and 3 are the batch's synthetic pair.
    changed = data.replace(visual_VxNxTxD=data.visual_VxNxTxD.at[2:4].multiply(-3.0))
    before, after = (gradient(0.0, d) for d in (data, changed))
    chex.assert_trees_all_close(before, after, atol=1e-7)
    before, after = (gradient(0.5, d) for d in (data, changed))
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), before, after)
    assert max(jax.tree.leaves(difference)) > 1e-3


def test_reference_running_variance_is_unbiased():
    old = {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
    new = {"norm": {"mean": jnp.ones(1), "var": jnp.array([0.9 + 0.1 * 4.0])}}
    corrected = step.unbiased_variance(old, new, count=5)
    np.testing.assert_allclose(corrected["norm"]["var"], 0.9 + 0.1 * 4.0 * 5 / 4, rtol=1e-6)
    np.testing.assert_allclose(corrected["norm"]["mean"], 1.0)


def _run(count, batch=BATCH, data=None, **changes):
    """Runs steps, by default of MIL-Rank, which compiles fastest; returns state and metrics."""
    config = TrainConfig(**({"detector": "mil_rank"} | SMALL | changes))
    state, data = step.init_state(config, 12, 8), make_data() if data is None else data
    train_step, log = steps.train_step(config), []
    for _ in range(count):
        state, metrics = train_step(state, data, batch)
        log.append(metrics)
    return state, {name: np.array([m[name] for m in log]) for name in log[0]}


def test_the_published_learnable_lambda_only_falls_and_turns_negative():
    """By about one learning rate a step: its gradient is cost x p, never negative."""
    _, log = _run(
        150, detector="lap", fidelity="reference", lambda_mode="learnable", lambda_value=0.1
    )
    assert (log["lambda_gradient"] > 0).all()
    falls = -np.diff(log["lambda"])
    assert (falls > 0).all() and abs(np.median(falls) - 1e-3) < 2e-4
    assert log["lambda"][0] == np.float32(0.1) and log["lambda"][-1] < 0


@pytest.mark.parametrize("mode", ["sigmoid", "softplus"])
def test_bounded_lambdas_fall_and_stay_positive(mode):
    """At a hundred times the rate; their gradient too is the synthetic loss."""
    state, log = _run(150, lambda_mode=mode, lambda_value=0.1, lambda_learning_rate=0.1)
    assert (log["lambda_gradient"] > 0).all()
    assert (np.diff(log["lambda"]) < 0).all() and 0 < log["lambda"][-1] < 0.01
    assert np.isfinite(state.params["ssls"]["lambda"])


def test_fixed_and_scheduled_lambdas_do_not_depend_on_the_loss():
    _, log = _run(4, lambda_value=0.7)
    np.testing.assert_allclose(log["lambda"], 0.7, rtol=1e-6)
    _, log = _run(4, lambda_mode="scheduled", lambda_value=1.0, steps=20, lambda_shift=0)
    np.testing.assert_allclose(log["lambda"], [0.001, 0.5005, 1.0, 1.0], rtol=1e-4)


def test_an_uncertain_lambda_rises_while_the_synthetic_loss_is_below_one_over_it():
    for value, rises in ((0.1, True), (20.0, False)):
        _, log = _run(3, lambda_mode="uncertainty", lambda_value=value)
        assert (log["lambda_gradient"] < 0).all() == rises
        assert (np.diff(log["lambda"]) > 0).all() == rises
        # By hand: the synthetic cost less 1 / lambda for each of the two of four videos.
        expected = log["cost_synthetic"] - 0.5 / log["lambda"]
        np.testing.assert_allclose(log["lambda_gradient"], expected, rtol=1e-4)


def test_a_meta_learned_lambda_follows_the_held_out_gradient():
    """Up where held-out videos are like the synthetic ones, down where their labels contradict."""
    data = make_data()
    # Real copies of the synthetic videos.
    data = data.replace(visual_VxNxTxD=data.visual_VxNxTxD.at[4:6].set(data.visual_VxNxTxD[2:4]))
    for held_out, rises in (([[4, 5], [4, 5]], True), ([[5, 4], [5, 4]], False)):
        batch = BATCH._replace(held_out_Bx2=jnp.array(held_out))
        _, log = _run(3, batch, data, lambda_mode="meta", dropout=0.0)
        assert (np.diff(log["lambda"]) > 0).all() == rises
        assert ((log["lambda_gradient"] < 0) == rises).all()


@pytest.mark.parametrize("flipped", [False, True])
def test_a_meta_learned_lambda_moves_within_100_steps(flipped):
    """Towards 1 where synthetic videos are copies of real ones, down where labels are flipped."""
    labels_V, rng = np.array([0, 1] * 16), np.random.default_rng(0)
    visual = rng.normal(size=(32, 1, 6, 12))
    visual[labels_V == 1, :, 2:5, 0] += 1.0
    synthetic_V, held_out_V = np.arange(64) >= 32, np.arange(64) < 16
    config = TrainConfig(
        detector="mil_rank", lambda_mode="meta", dropout=0.0, **SMALL | {"batch_size": 8}
    )
    data = step.TrainingData(
        visual_VxNxTxD=jnp.asarray(np.concatenate([visual, visual]), jnp.float32),
        text_VxTxE=None,
        synthetic_V=jnp.asarray(synthetic_V),
        bank_KxE=None,
    )
    both_V = np.concatenate([labels_V, 1 - labels_V if flipped else labels_V])
    drawn = Batches(both_V, synthetic_V, config, held_out_V=held_out_V)
    state, train_step = step.init_state(config, 12, 0), steps.train_step(config)
    for number in range(100):
        state, metrics = train_step(state, data, drawn.at(number))
    lambda_ = float(ssls.lambda_of(state.params["ssls"], jnp.array(0), config))
    assert lambda_ < 0.1 if flipped else lambda_ > 0.9
    assert -1 <= metrics["held_out_cosine"] <= 1


def test_meta_gradient_against_finite_differences():
    """lambda's gradient is what a small SGD step's lambda does to the held-out loss."""
    config = TrainConfig(detector="mil_rank", lambda_mode="meta", dropout=0.0, **SMALL)
    batch = BATCH._replace(held_out_Bx2=jnp.array([[4, 1], [0, 5]]))
    state, data = step.init_state(config, 12, 8), make_data()
    _, metrics = jax.jit(step.make_train_step(config))(state, data, batch)
    file = detectors.by_name("mil_rank")

    @jax.jit
    def cost(params, videos_Bx2, lambda_):
        videos = step.take(data, videos_Bx2.reshape(-1))
        outputs = file.Detector(config).apply({"params": params}, videos.visual_VxNxTxD)
        terms = file.loss_terms(outputs, None, None, config)
        return ssls.scaled_loss(terms, videos.synthetic_V.reshape(-1, 2), lambda_, config)[0]

    def held_out_after(lambda_, rate=1e-2):
        params = state.params["detector"]
        grads = jax.grad(cost)(params, batch.videos_Bx2, lambda_)
        stepped = jax.tree.map(lambda x, g: x - rate * g, params, grads)
        return cost(stepped, batch.held_out_Bx2, 1.0) / rate

    difference = (held_out_after(0.9) - held_out_after(0.1)) / 0.8
    np.testing.assert_allclose(metrics["lambda_gradient"], difference, rtol=5e-2)


def test_gradients_by_source_add_up_to_the_whole():
    _, log = _run(2, log_gradients=True, lambda_value=0.3, dropout=0.0)
    real, synthetic, cosine = (
        log[name] for name in ("grad_norm_real", "grad_norm_synthetic", "grad_cosine")
    )
    assert (np.abs(cosine) < 1).all() and (real > 0).all() and (synthetic > 0).all()
    whole = real**2 + 2 * 0.3 * real * synthetic * cosine + (0.3 * synthetic) ** 2
    np.testing.assert_allclose(log["grad_norm"] ** 2, whole, rtol=1e-4)
    # Without a synthetic video there is nothing to compare.
    _, log = _run(1, log_gradients=True, data=make_data().replace(synthetic_V=jnp.zeros(8, bool)))
    assert log["grad_norm_synthetic"][0] == 0 and log["grad_cosine"][0] == 0


def test_a_projection_by_hand():
    real = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    # <(-2, 1), (3, 4)> = -2, |(3, 4)|^2 = 25; both leaves are one vector.
    added, conflict = step.project({"a": jnp.array([-2.0]), "b": jnp.array([1.0])}, real)
    np.testing.assert_allclose(added["a"], [-2 + 2 / 25 * 3], rtol=1e-6)
    np.testing.assert_allclose(added["b"], [1 + 2 / 25 * 4], rtol=1e-6)
    assert conflict == 1 and abs(optax.tree.vdot(added, real)) < 1e-6
    agreeing = {"a": jnp.array([2.0]), "b": jnp.array([-1.0])}
    for untouched, other in ((agreeing, real), (real, jax.tree.map(jnp.zeros_like, real))):
        kept, conflict = step.project(untouched, other)
        chex.assert_trees_all_equal(kept, untouched)
        assert conflict == 0


def test_a_limit_by_hand():
    real = {"a": jnp.array([0.0]), "b": jnp.array([2.0])}
    added = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    # Length 5, shortened to half of 2.
    chex.assert_trees_all_close(
        step.limit(added, real, jnp.array(0.5)), {"a": jnp.array([0.6]), "b": jnp.array([0.8])}
    )
    chex.assert_trees_all_equal(step.limit(added, real, jnp.array(2.5)), added)
    nothing = jax.tree.map(jnp.zeros_like, real)
    for gone in (
        step.limit(added, nothing, jnp.array(1.0)),
        step.limit(added, real, jnp.zeros(())),
    ):
        chex.assert_trees_all_equal(gone, nothing)


def _gradients(data, **changes):
    config = TrainConfig(detector="mil_rank", dropout=0.0, log_gradients=True, **SMALL | changes)
    state = step.init_state(config, 12, 8)
    noise = Noise(key=jax.random.key(0), videos_V=jnp.arange(4))
    grads, _, metrics = steps.gradients(config)(state, data, BATCH, noise)
    return grads["detector"], metrics


def _contradicting(data):
    """Synthetic videos that are real ones with the labels exchanged."""
    rows = data.visual_VxNxTxD
    return data.replace(visual_VxNxTxD=rows.at[2:4].set(rows[:2][::-1]))


@pytest.mark.parametrize("lambda_value", [0.5, 2.0])
def test_a_projected_step_never_works_against_the_real_videos(lambda_value):
    data = _contradicting(make_data())
    real, _ = _gradients(data, lambda_value=0.0)
    kept, metrics = _gradients(data, lambda_value=lambda_value)
    projected, log = _gradients(data, lambda_value=lambda_value, conflicts="project")
    square = optax.tree.vdot(real, real)
    assert metrics["grad_cosine"] < -0.1 and log["conflict"] == 1 and "conflict" not in metrics
    assert optax.tree.vdot(kept, real) < 0.95 * square
    np.testing.assert_allclose(optax.tree.vdot(projected, real), square, rtol=1e-4)
    # What is added is the synthetic gradient less its part along the real one.
    added = optax.tree.sub(kept, real)
    along = optax.tree.scale(optax.tree.vdot(added, real) / square, real)
    chex.assert_trees_all_close(optax.tree.sub(projected, real), optax.tree.sub(added, along),
                                atol=1e-6)  # fmt: skip


def test_a_limited_step_is_led_by_the_real_videos():
    data = _contradicting(make_data())
    # Real videos that cost next to nothing.
    data = data.replace(visual_VxNxTxD=data.visual_VxNxTxD.at[:2].multiply(1e-3))
    real, _ = _gradients(data, lambda_value=0.0)
    added = {}
    for conflicts in ("project", "limit"):
        grads, _ = _gradients(data, lambda_value=0.5, conflicts=conflicts)
        added[conflicts] = optax.tree.sub(grads, real)
    shortened = optax.tree.norm(added["limit"]) / optax.tree.norm(added["project"])
    assert shortened < 0.5
    np.testing.assert_allclose(
        optax.tree.norm(added["limit"]), 0.5 * optax.tree.norm(real), rtol=1e-4
    )
    chex.assert_trees_all_close(
        added["limit"], optax.tree.scale(shortened, added["project"]), atol=1e-6
    )


@pytest.mark.parametrize("changes", [{"lambda_value": 0.0}, {"real": True}, {"agreeing": True}])
def test_without_a_conflict_projecting_is_the_usual_step(changes):
    data, changes = _contradicting(make_data()), dict(changes)
    if changes.pop("real", False):
        data = data.replace(synthetic_V=jnp.zeros(8, bool))
    if changes.pop("agreeing", False):
        data = data.replace(visual_VxNxTxD=data.visual_VxNxTxD.at[2:4].set(
            data.visual_VxNxTxD[:2]))  # fmt: skip
    kept, _ = _gradients(data, **changes)
    projected, log = _gradients(data, **changes, conflicts="project")
    chex.assert_trees_all_close(projected, kept, rtol=1e-5, atol=1e-8)
    assert log["conflict"] == 0 or changes  # At lambda 0 rounding decides.


def test_mixtures_by_hand():
    data = make_data()
    batch = BATCH._replace(
        partners_Bx2=jnp.array([[2, 3], [2, 3]]), shares_Bx2=jnp.array([[0.5, 0.75], [1.0, 0.6]])
    )
    mixtures = step.mixed_videos(data, batch)
    for name in ("visual_VxNxTxD", "text_VxTxE"):
        rows, own = getattr(data, name), getattr(mixtures, name)
        np.testing.assert_allclose(own[0], (rows[0] + rows[2]) / 2, rtol=1e-6)
        np.testing.assert_allclose(own[1], 0.75 * rows[1] + 0.25 * rows[3], rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(own[2], rows[2])
    np.testing.assert_allclose(mixtures.synthetic_V, [0.5, 0.25, 1.0, 1.0])


def test_random_crops_are_distinct_change_with_the_step_and_are_every_videos():
    data = make_data().replace(visual_VxNxTxD=jnp.arange(8 * 10.0).reshape(8, 10, 1, 1))
    config, drawn = TrainConfig(train_crops=3), set()
    for number in range(8):
        key = jax.random.fold_in(jax.random.key(0), number)
        noise = Noise(key=key, videos_V=jnp.arange(4))
        crops_k = step.choose_crops(data, noise, config)
        visual = step.mixed_videos(data, BATCH, crops_k).visual_VxNxTxD[:, :, 0, 0]
        crops_Vx3 = np.asarray(visual) - 10 * np.arange(4)[:, None]
        assert (crops_Vx3 == crops_Vx3[0]).all() and len(set(crops_Vx3[0])) == 3
        assert ((crops_Vx3 >= 0) & (crops_Vx3 < 10)).all()
        drawn.add(tuple(crops_Vx3[0]))
    assert len(drawn) > 5
    assert step.choose_crops(data, noise, TrainConfig()) is None


def test_crops_are_scored_by_their_mean_feature_where_that_is_asked_for():
    visual_VxNxTxD = np.random.default_rng(0).standard_normal((2, 10, 6, 12), np.float32)
    exact, mean = (TrainConfig(detector="rtfm", score_crops=how) for how in ("all", "mean"))
    variables = step.scoring_variables(step.init_state(exact, 12, 0))
    scores = {
        config.score_crops: step.make_score_step(config)(variables, visual_VxNxTxD, None, None)
        for config in (exact, mean)
    }
    one_crop = visual_VxNxTxD.mean(axis=1, keepdims=True)
    expected = step.make_score_step(exact)(variables, one_crop, None, None)
    np.testing.assert_allclose(scores["mean"], expected, rtol=1e-5)
    assert not np.allclose(scores["mean"], scores["all"], rtol=1e-4)


def test_one_crop_is_ten_times_cheaper():
    data = make_data().replace(visual_VxNxTxD=jnp.zeros((8, 10, 16, 64)), text_VxTxE=None)

    def operations(train_crops):
        config = TrainConfig(detector="rtfm", train_crops=train_crops)
        state = jax.eval_shape(lambda: step.init_state(config, 64, 0))
        lowered = jax.jit(step.make_train_step(config)).lower(state, data, BATCH)
        return lowered.cost_analysis()["flops"]

    assert operations(0) > 8 * operations(1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 1.0, 55: 1.0, 99: 1.0}),
        ("linear", {0: 1.0, 50: 0.5, 90: 0.1}),
        ("cosine", {0: 1.0, 50: 0.5, 75: (1 + np.cos(np.pi * 0.75)) / 2}),
        ("step", {0: 1.0, 49: 1.0, 51: 0.1, 76: 0.01}),
    ],
)
def test_learning_rates_by_hand(schedule, expected):
    config = TrainConfig(learning_rate_schedule=schedule, steps=100)
    warm = dataclasses.replace(config, warmup_steps=10, steps=110)
    for number, rate in expected.items():
        np.testing.assert_allclose(learning_rate(config, 2.0)(number), 2 * rate, rtol=1e-5)
        np.testing.assert_allclose(learning_rate(warm, 2.0)(10 + number), 2 * rate, rtol=1e-5)
    np.testing.assert_allclose(learning_rate(warm, 2.0)(5), 1.0)


def _first_moment(config, grads):
    """Adam's, after one update; a tenth of what reached it."""
    optimizer, params = make_optimizer(config), jax.tree.map(jnp.ones_like, grads)
    _, opt_state = optimizer.update(grads, optimizer.init(params), params)
    moments = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
        if any(getattr(key, "name", "") == "mu" for key in path)
    ]  # fmt: skip
    return [10 * np.asarray(moment) for moment in moments]


def test_the_detectors_gradient_is_clipped_and_lambdas_is_not():
    grads = {"detector": {"w": jnp.array([30.0, 40.0])}, "ssls": {"lambda": jnp.array(7.0)}}
    config = TrainConfig(lambda_mode="sigmoid", l2=0.0, clip_norm=5.0)
    detector, lambda_ = _first_moment(config, grads)
    np.testing.assert_allclose(detector, [3.0, 4.0], rtol=1e-5)
    np.testing.assert_allclose(lambda_, 7.0, rtol=1e-5)


def test_l2_pulls_on_the_published_lambda_alone():
    grads = {"detector": {"w": jnp.zeros(2)}, "ssls": {"lambda": jnp.array(0.0)}}
    for mode, pull in (("learnable", 0.5), ("sigmoid", 0.0), ("meta", 0.0)):
        detector, lambda_ = _first_moment(TrainConfig(lambda_mode=mode, l2=0.5), grads)
        np.testing.assert_allclose(detector, 0.5)
        np.testing.assert_allclose(lambda_, pull)


def test_adagrad_is_mil_ranks_published_optimiser():
    grads = {"detector": {"w": jnp.array([3.0, -4.0])}, "ssls": {}}
    config = TrainConfig(detector="mil_rank", fidelity="reference", l2=0.0, learning_rate=0.01)
    optimizer = make_optimizer(config)
    opt_state = optimizer.init(grads)
    for number in (1, 2, 3):  # The k-th step by hand: lr g / sqrt(k g^2).
        updates, opt_state = optimizer.update(grads, opt_state, grads)
        expected = np.array([-0.01, 0.01]) / np.sqrt(number)
        np.testing.assert_allclose(updates["detector"]["w"], expected, rtol=1e-5)


def test_averaged_parameters_by_hand():
    config = TrainConfig(detector="mil_rank", ema=0.5, **SMALL)
    state = step.init_state(config, 12, 8)
    before = state.averaged["params"]["fc3"]["bias"]
    now = jax.tree.map(lambda x: x + 1.0, state.params)
    state = state.replace(params=now, step=jnp.array(1))
    # (1 + 1) / (10 + 1) at first, the flag's decay later on.
    after = step.average(state, 0.5)["params"]["fc3"]["bias"]
    np.testing.assert_allclose(after, before + 9 / 11, rtol=1e-5)
    later = state.replace(step=jnp.array(1000))
    np.testing.assert_allclose(
        step.average(later, 0.5)["params"]["fc3"]["bias"], before + 0.5, rtol=1e-5
    )
    assert step.scoring_variables(state)["params"] is state.averaged["params"]
    assert step.average(state, 0.0) == {}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_a_step_keeps_is_float32_in_any_precision(precision):
    config = TrainConfig(detector="rtfm", precision=precision, dropout=0.0, **SMALL)
    state = step.init_state(config, 12, 8)
    after, metrics = steps.train_step(config)(state, make_data(), BATCH)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert metrics["loss"].dtype == jnp.float32
    plain = TrainConfig(detector="rtfm", dropout=0.0, **SMALL)
    expected = float(steps.train_step(plain)(state, make_data(), BATCH)[1]["loss"])
    error = abs(float(metrics["loss"]) - expected) / expected
    # It does compute in what it says: bfloat16 has three digits at best.
    assert error == 0 if precision == "float32" else 1e-7 < error < 0.03


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "highest") for name in DETECTORS), ("rtfm", "high"), ("rtfm", "default")],
)
def test_every_product_of_training_and_scoring_has_the_precision_asked_for(name, precision):
    """Forward and backward; GPUs would round float32 to TF32 by themselves."""
    config = TrainConfig(detector=name, matmul_precision=precision, **SMALL)
    assert TrainConfig().matmul_precision == "highest"
    state, data = jax.eval_shape(lambda: step.init_state(config, 12, 8)), make_data()
    text = data.text_VxTxE if config.uses_text else None
    programs = [
        jax.jit(step.make_train_step(config)).lower(state, data, BATCH),
        step.make_score_step(config).lower(
            step.scoring_variables(state), data.visual_VxNxTxD, text, None
        ),
    ]
    for program in programs:
        products = [
            line
            for line in program.as_text().splitlines()
            if re.search(r"= stablehlo\.(dot_general|convolution)", line)
        ]
        wanted = re.compile(rf"precision[ <]([= ]*\[)?{precision.upper()}\b")
        assert len(products) >= 3
        assert [line for line in products if not wanted.search(line)] == []
