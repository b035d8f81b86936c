"""Real and generated videos normalised apart: neither moves what the other is normalised by."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvvad_jax import segments, step, training
from gvvad_jax.batches import Batch
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors import lap, layers
from gvvad_jax.splits import open_splits
from gvvad_jax.standardisation import standards
from tests.support import steps
from tests.support.steps import SMALL, make_data

# LAP has all that RTFM and TEVAD have, and more.
BOUNDS = {"float32": 1e-6, "float64": 1e-12}
# Both labels, both sources: videos 2, 3, 6 and 7 are generated.
BATCH = Batch(
    videos_Bx2=np.array([[0, 1], [2, 5], [4, 3], [6, 7]], np.int32),
    pairs_B=np.arange(4, dtype=np.int32),
)
REAL = BATCH._replace(videos_Bx2=np.array([[0, 1], [4, 5], [5, 4], [1, 0]], np.int32))
GENERATED = BATCH._replace(videos_Bx2=np.array([[2, 3], [6, 7], [7, 6], [3, 2]], np.int32))


def prepare(precision, data=None, **changes):
    """Config, state and data of steps without dropout."""
    config = TrainConfig(**SMALL | {"batch_size": 4, "dropout": 0.0} | changes, precision=precision)
    data = data or make_data()
    if precision == "float64":
        data = step.cast(data, jnp.float64)
    if not config.uses_text:
        data = data.replace(text_VxTxE=None, bank_KxE=None)
    state = step.init_state(config, 12, 8)
    # As if trained: a scale of 0, as it begins, would hide the non-local block.
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 0.01, state.params))
    return config, state, data


def gradients(precision, batch, data=None, **changes):
    """Returns a batch's gradients, the statistics after it, and its loss."""
    config, state, data = prepare(precision, data, **changes)
    noise = layers.Noise(key=jax.random.key(0), videos_V=jnp.arange(8))
    grads, batch_stats, metrics = steps.gradients(config)(state, data, batch, noise)
    return grads["detector"], batch_stats, metrics["loss"]


def take_steps(precision, batches, data=None, **changes):
    """Takes steps; returns the state and the last metrics."""
    config, state, data = prepare(precision, data, **changes)
    for batch in batches:
        state, metrics = steps.train_step(config)(state, data, batch)
    return state, metrics


def require_equal(found, expected, bound):
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        scale = max(float(jnp.abs(other).max()), 1.0)
        assert float(jnp.abs(one - other).max()) <= bound * scale, jax.tree_util.keystr(path)


@pytest.fixture(params=BOUNDS)
def precision(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def test_on_real_videos_alone_it_is_the_shared_step(precision):
    shared = gradients(precision, REAL, batch_norm="shared")
    apart = gradients(precision, REAL, batch_norm="per_domain")
    require_equal(apart, shared, BOUNDS[precision])


def test_at_lambda_0_generated_videos_move_nothing(precision):
    data = make_data()
    synthetic_V = np.asarray(data.synthetic_V)
    rng = np.random.default_rng(1)
    others = data.replace(
        visual_VxNxTxD=jnp.where(
            synthetic_V[:, None, None, None],
            1e3 * rng.normal(size=data.visual_VxNxTxD.shape),
            data.visual_VxNxTxD,
        ).astype(jnp.float32),
        text_VxTxE=jnp.where(
            synthetic_V[:, None, None], rng.normal(size=data.text_VxTxE.shape), data.text_VxTxE
        ).astype(jnp.float32),
    )
    changes = {"lambda_value": 0.0}

    def after(data, batch_norm):
        state, _ = take_steps(precision, [BATCH], data, batch_norm=batch_norm, **changes)
        grads = gradients(precision, BATCH, data, batch_norm=batch_norm, **changes)
        return state.params["detector"], state.batch_stats, grads

    require_equal(after(others, "per_domain"), after(data, "per_domain"), BOUNDS[precision])
    if precision == "float32":  # They do by the shared statistics.
        shared = [
            gradients(precision, BATCH, each, batch_norm="shared", **changes)
            for each in (others, data)
        ]
        with pytest.raises(AssertionError):
            require_equal(*shared, 1e-3)


def test_without_real_rows_running_statistics_stay_and_all_is_finite():
    before, _ = take_steps("float32", [REAL], batch_norm="per_domain")
    after, metrics = take_steps("float32", [REAL, GENERATED], batch_norm="per_domain")
    require_equal(after.batch_stats, before.batch_stats, 0.0)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((after, metrics)))
    assert float(metrics["cost_synthetic"]) > 0.0


@pytest.mark.parametrize("generated", [[], [4], [0, 1, 2, 3, 4]])
def test_each_domain_has_its_own_moments(generated):
    rng = np.random.default_rng(0)
    x_MxTxC = rng.normal(3.0, 2.0, (5, 7, 4)).astype(np.float32)
    domain_M = np.isin(np.arange(5), generated)
    x_MxTxC[domain_M] *= 10.0
    bound = layers.DomainBatchNorm(parent=None)
    variables = bound.init(jax.random.key(0), x_MxTxC, domain_M)
    y_MxTxC, changed = bound.apply(variables, x_MxTxC, domain_M, mutable=["batch_stats"])
    for member_M in (domain_M, ~domain_M):
        if member_M.any():
            rows = np.asarray(y_MxTxC)[member_M]
            np.testing.assert_allclose(rows.mean((0, 1)), 0.0, atol=1e-5)
            np.testing.assert_allclose(rows.std((0, 1)), 1.0, atol=1e-4)
    mean_C = changed["batch_stats"]["mean"]
    expected_C = 0.1 * x_MxTxC[~domain_M].mean((0, 1)) if (~domain_M).any() else np.zeros(4)
    np.testing.assert_allclose(mean_C, expected_C, rtol=1e-5)


def test_suspected_snippets_are_chosen_within_a_domain():
    # The generated video's text is closer to the bank throughout.
    text_BxTxE = jnp.stack(
        [
            jnp.stack([jnp.array([jnp.cos(angle), jnp.sin(angle)]) for angle in angles])
            for angles in ([1.5, 1.5, 1.5, 1.0], [0.5, 0.5, 0.5, 0.1])
        ]
    )
    bank_KxE = jnp.array([[1.0, 0.0]])
    together = lap.suspected_snippets(text_BxTxE, bank_KxE)
    apart = lap.suspected_snippets(text_BxTxE, bank_KxE, jnp.array([False, True]))
    assert together.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert apart.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]


def test_triplets_of_a_domain_weigh_what_its_share_is():
    """With one pair of each domain: the mean of the means of each pair alone."""
    rng = np.random.default_rng(0)
    outputs = layers.Outputs(
        scores_VxT=jnp.asarray(rng.uniform(size=(4, 3))),
        features_VxNxTxD=jnp.asarray(rng.normal(size=(4, 2, 3, 5))),
    )
    text_VxTxE, bank_KxE = jnp.asarray(rng.normal(size=(4, 3, 6))), jnp.eye(5, 6)
    config = TrainConfig(detector="lap", batch_norm="per_domain")

    def mean(videos, generated):
        some = jax.tree.map(lambda leaf: leaf[videos], outputs)
        some = some.replace(
            extra={
                "generated": jnp.array(generated),
                "selected": jnp.zeros((len(videos), 1), jnp.int32),
            }
        )
        term = lap.loss_terms(some, text_VxTxE[videos], bank_KxE, config)["triplet"]
        return float(jnp.mean(term.values_M))

    pairs = [np.array([0, 1]), np.array([2, 3])]
    alone = [mean(pair, [False, False]) for pair in pairs]
    both = mean(np.arange(4), [False, False, True, True])
    np.testing.assert_allclose(both, np.mean(alone), rtol=1e-6)


def test_the_published_objective_has_shared_statistics():
    with pytest.raises(UserError, match="--batch_norm: expected shared with --fidelity=reference"):
        TrainConfig(fidelity="reference", batch_norm="per_domain")


def _balanced_moments(members, rows_of):
    """Mean and deviation over rows in which each label counts half."""
    moments = []
    for label in (0, 1):
        rows = np.concatenate([rows_of(m) for m in members if m.video.label == label])
        moments.append([rows.mean(axis=0), np.square(rows).mean(axis=0)])
    mean, square = np.mean(moments, axis=0)
    return mean, np.sqrt(square - mean**2)


def test_generated_text_gets_the_mean_and_deviation_of_real_text(real_store, synthetic_store):
    config = TrainConfig(
        store=str(real_store), synthetic_store=str(synthetic_store), standardise_by="domain"
    )
    train = open_splits(config)[0].train
    standard = standards(train, config)
    real = [m for m in train if m.row.source == "real"]
    generated = [m for m in train if m.row.source != "real"]

    def stream(member):
        return standard.text_of(member).apply(member.store.text(member.video.id))

    found = _balanced_moments(generated, stream)
    expected = _balanced_moments(real, lambda m: m.store.text(m.video.id))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    kept = segments.Segments(train, standard, config)
    text, moved = (kept.rows(kind, np.arange(len(train))) for kind in ("text", "stream"))
    for i, member in enumerate(train):
        if member in real:
            np.testing.assert_array_equal(moved[i], text[i])
        else:
            assert np.abs(moved[i] - text[i]).max() > 1e-3
            np.testing.assert_allclose(moved[i], standard.text_of(member).apply(text[i]), rtol=1e-6)
    for other in ({"standardise_by": "real"}, {"detector": "rtfm"}, {"synthetic_store": ""}):
        changed = dataclasses.replace(config, **other)
        assert standards(open_splits(changed)[0].train, changed).text == {}


def test_without_generated_videos_there_is_one_domain(real_store, synthetic_store):
    """So that a run of which auto leaves out every set is the run on real videos alone."""

    def mean_D(by, synthetic=""):
        config = TrainConfig(
            store=str(real_store), synthetic_store=synthetic, standardise="yes", standardise_by=by
        )
        return standards(open_splits(config)[0].train, config).real.mean_D

    np.testing.assert_array_equal(mean_D("domain"), mean_D("real"))
    assert np.abs(mean_D("domain", str(synthetic_store)) - mean_D("real")).max() > 1e-6


@pytest.mark.parametrize(("share", "kept"), [(1.0, "shared"), (0.5, "per_domain")])
def test_a_run_that_draws_no_real_video_keeps_the_generated_ones_statistics(
    settings, tmp_path, capsys, share, kept
):
    """Otherwise it would score by the statistics that it began with."""
    config = dataclasses.replace(
        settings, detector="rtfm", batch_norm="per_domain", batch_size=4, synthetic_share=share,
        workdir=str(tmp_path / "run"),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        assert training.Run(config, training.prepared(config), stack).trained.batch_norm == kept
    said = "--synthetic_share=1: no real video is drawn" in capsys.readouterr().err
    assert said == (kept == "shared")


def test_a_limit_by_real_gradients_needs_real_videos(settings, tmp_path):
    config = dataclasses.replace(
        settings, conflicts="limit", synthetic_share=1.0, workdir=str(tmp_path / "run")
    )
    with pytest.raises(UserError, match="--conflicts=limit: expected real videos"):
        training.fit(config)
    assert not (tmp_path / "run" / "config.flags").exists()


def test_snippets_are_suspected_by_the_text_as_stored():
    """What the text stream takes moves every loss but what is compared with the bank."""
    rng = np.random.default_rng(3)
    data = make_data()
    other = jnp.asarray(rng.normal(size=data.text_VxTxE.shape), jnp.float32)
    config, state, data = prepare("float32", data, detector="lap")
    loss = jax.jit(step.make_loss(config, None, lambda shard: shard))

    def parts(data):
        videos = step.take(data, BATCH.videos_Bx2.reshape(-1))
        arguments = state.params["detector"], jnp.array(0.5), state.batch_stats
        return loss(*arguments, videos, None)[1][1]

    plain, same = parts(data), parts(data.replace(stream_VxTxE=data.text_VxTxE))
    assert plain == same
    stored = parts(data.replace(stream_VxTxE=data.text_VxTxE, text_VxTxE=other))
    moved = parts(data.replace(stream_VxTxE=other))
    assert stored["bag"] == plain["bag"] and stored["pseudo"] != plain["pseudo"]
    assert moved["bag"] != plain["bag"]
