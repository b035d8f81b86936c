"""The detectors: padding, crops, selection, dropout."""

import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from gvvad_jax import detectors, ssls, step
from gvvad_jax.config import DETECTORS, TrainConfig
from gvvad_jax.detectors import lap, layers, mtn, rtfm, tevad, ur_dmu

SMALL = {"head_widths": (16, 8), "mtn_channels": 4, "body_width": 8, "memory_rows": 20}


@functools.partial(jax.jit, static_argnums=0)
def _init(detector, visual, text):
    return detector.init(jax.random.key(0), visual, text)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(detector, variables, visual, text=None, mask=None):
    return detector.apply(variables, visual, text, mask)


def _scores(*arguments):
    return _outputs(*arguments).scores_VxT


def _detector(name, config, length=9, videos=3, crops=2, dim=12, text_dim=8):
    rng = np.random.default_rng(0)
    visual = jnp.asarray(rng.normal(size=(videos, crops, length, dim)), jnp.float32)
    text = jnp.asarray(rng.normal(size=(videos, length, text_dim)), jnp.float32)
    detector = detectors.by_name(name).Detector(config)
    variables = _init(detector, visual, text)
    # Running statistics and shifts that aren't the initial ones: padding would show.
    leaves, tree = jax.tree.flatten(variables)
    leaves = [leaf + 0.1 * rng.uniform(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return detector, jax.tree.unflatten(tree, leaves), visual, text


@pytest.mark.parametrize(
    ("name", "fusion"), [*((name, "concat") for name in DETECTORS), ("tevad", "add_up")]
)
def test_padding_changes_no_score(name, fusion):
    config = TrainConfig(detector=name, fusion=fusion, **SMALL)
    detector, variables, visual, text = _detector(name, config)
    alone = _scores(detector, variables, visual, text)
    junk = 5.0
    padded_visual = jnp.pad(visual, ((0, 0), (0, 0), (0, 7), (0, 0)), constant_values=junk)
    padded_text = jnp.pad(text, ((0, 0), (0, 7), (0, 0)), constant_values=junk)
    mask = jnp.pad(jnp.ones((3, 9)), ((0, 0), (0, 7)))
    padded = _scores(detector, variables, padded_visual, padded_text, mask)
    np.testing.assert_allclose(padded[:, :9], alone, atol=1e-6)
    if name != "mil_rank":  # Which scores each snippet by itself.
        # Without the mask it would.
        leaky = _scores(detector, variables, padded_visual, padded_text)
        assert np.abs(leaky[:, :9] - alone).max() > 1e-3


@pytest.mark.parametrize("name", DETECTORS)
def test_the_order_of_crops_changes_no_score(name):
    detector, variables, visual, text = _detector(name, TrainConfig(detector=name, **SMALL))
    one = _scores(detector, variables, visual, text)
    other = _scores(detector, variables, visual[:, ::-1], text)
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", ["tevad", "lap"])
def test_feature_groups_turn_streams_off(name):
    for group, off in (("visual", "text"), ("text", "visual")):
        config = TrainConfig(detector=name, feature_group=group, **SMALL)
        detector, variables, visual, text = _detector(name, config)
        assert off not in variables["params"]
        one = _scores(detector, variables, visual, text)
        if group == "visual":
            other = _scores(detector, variables, visual, text + 1)
        else:
            other = _scores(detector, variables, visual + 1, text)
        np.testing.assert_array_equal(one, other)


def test_lap_without_text_is_rtfm():
    config = TrainConfig(detector="lap", feature_group="visual", **SMALL)
    detector, variables, visual, _ = _detector("lap", config)
    plain = _scores(rtfm.Detector(config), variables, visual)
    np.testing.assert_array_equal(_scores(detector, variables, visual), plain)
    outputs = _outputs(detector, variables, jnp.concatenate([visual, visual[:1]]))
    assert set(lap.loss_terms(outputs, None, None, config)) == {
        "bag", "magnitude", "smoothness", "sparsity",
    }  # fmt: skip


@pytest.mark.parametrize("channels", [4, 12])
def test_the_non_local_block_by_its_formula_whichever_order_is_cheaper(channels):
    x, mask = jax.random.normal(jax.random.key(0), (2, 9, 6)), jnp.ones((2, 9, 1))
    block = mtn.NonLocal(channels)
    variables = block.init(jax.random.key(1), x, mask, False)
    params = variables["params"] | {"W_norm": {"scale": jnp.full(6, 2.0), "bias": jnp.ones(6)}}
    found = block.apply(variables | {"params": params}, x, mask, False)
    theta, phi, g = (x @ params[name]["kernel"] for name in ("theta", "phi", "g"))
    seen = (theta @ phi.swapaxes(1, 2) / 9) @ g @ params["W"]["kernel"]
    np.testing.assert_allclose(found, x + 2.0 * seen / np.sqrt(1 + 1e-5) + 1.0, rtol=1e-4)


def test_selection_by_hand():
    features = jnp.zeros((1, 2, 4, 2)).at[0, :, :, 0].set(jnp.array([[1, 5, 0, 2], [1, 1, 9, 2]]))
    # Magnitudes, mean over crops: 1, 3, 4.5, 2.
    np.testing.assert_array_equal(rtfm.select(features, 3, None, 0.0), [[2, 1, 3]])


def test_a_bag_shorter_than_k_is_selected_whole():
    features = jnp.ones((2, 1, 2, 3))
    assert rtfm.select(features, 3, None, 0.0).shape == (2, 2)


def _total_loss(name, length, **changes):
    """(params -> loss of two pairs with dropout and noise on, params)."""
    config = TrainConfig(detector=name, dropout=0.6, **SMALL, **changes)
    detector, variables, visual, text = _detector(name, config, length=length, videos=4)
    noise = layers.Noise(key=jax.random.key(3), videos_V=jnp.arange(4))
    variables, visual, text = jax.tree.map(lambda x: x.astype(float), (variables, visual, text))

    def loss(params):
        outputs, _ = detector.apply(
            variables | {"params": params}, visual, text, noise=noise, train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        terms = detectors.by_name(name).loss_terms(outputs, text, jnp.eye(3, 8), config)
        synthetic_Bx2 = jnp.array([[0.0, 1.0], [0.0, 0.0]])
        return ssls.scaled_loss(terms, synthetic_Bx2, jnp.asarray(0.5), config)[0]

    return loss, variables["params"]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_whole_gradient_against_finite_differences(name):
    """Along one random direction, in float64; bags of two snippets, fewer than k, for the MTN's."""
    with jax.enable_x64(True):
        for length in (9, 2) if name in ("rtfm", "lap") else (9,):
            loss, params = _total_loss(name, length)
            leaves, tree = jax.tree.flatten(params)
            rng = np.random.default_rng(1)
            direction = jax.tree.unflatten(tree, [rng.normal(size=x.shape) for x in leaves])

            def along(t, loss=loss, params=params, direction=direction):
                return loss(optax.tree.add_scale(params, t, direction))

            value_and_gradient = jax.jit(jax.value_and_grad(along))
            slope = value_and_gradient(0.0)[1]
            assert slope.dtype == jnp.float64
            step = 1e-6
            difference = value_and_gradient(step)[0] - value_and_gradient(-step)[0]
            np.testing.assert_allclose(slope, difference / (2 * step), rtol=1e-5)


def test_dropped_snippets_are_not_selected_while_training():
    features = jnp.ones((200, 1, 8, 2)) * jnp.arange(1, 9)[:, None]
    noise = layers.Noise(key=jax.random.key(0), videos_V=jnp.arange(200))
    chosen = np.asarray(rtfm.select(features, 1, noise, 0.7))[:, 0]
    # The largest survives with chance 0.3; 200 draws give 60 within five deviations.
    assert 27 < np.sum(chosen == 7) < 93


def test_dropout_keeps_the_mean_and_depends_on_video_and_layer_only():
    x = jnp.ones((2, 1000))
    key = jax.random.key(0)
    whole = layers.dropout(x, layers.Noise(key=key, videos_V=jnp.array([4, 5])), 0.7, layer=0)
    # 1000 entries of 1/0.3 with chance 0.3: mean 1, deviation 0.05.
    np.testing.assert_allclose(whole.mean(axis=1), 1.0, atol=0.25)
    part = layers.dropout(x[1:], layers.Noise(key=key, videos_V=jnp.array([5])), 0.7, layer=0)
    np.testing.assert_array_equal(part[0], whole[1])
    other = layers.dropout(x[1:], layers.Noise(key=key, videos_V=jnp.array([5])), 0.7, layer=1)
    assert (other != part).any() and (whole[0] != whole[1]).any()


def test_suspected_snippets_by_hand():
    bank_KxE = jnp.array([[2.0, 0.0], [0.0, 3.0]])
    # Largest cosines: 1, 0, 0.8, 0; mean 0.45, unbiased deviation sqrt(0.83/3) = 0.526.
    text_BxTxE = jnp.array([[[5.0, 0.0], [-1.0, 0.0]], [[0.6, 0.8], [0.0, -2.0]]])
    np.testing.assert_array_equal(lap.suspected_snippets(text_BxTxE, bank_KxE), [[1, 0], [0, 0]])


def test_mined_triplets_by_hand():
    normal = jnp.array([[0.3, 0.1], [0.2, 0.9]])
    abnormal = jnp.array([[0.8, 0.4], [0.7, 0.6]])
    suspected = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    anchors, positives, negatives = lap.mine_triplets(normal, abnormal, suspected, 3)
    np.testing.assert_array_equal(anchors, [1, 2, 0])
    np.testing.assert_array_equal(positives, [1, 3, 2])
    # Only two are suspected; the third is the lowest index among the rest.
    np.testing.assert_array_equal(negatives, [2, 1, 0])


def test_text_of_another_length_is_cut_or_repeated():
    text = jnp.arange(4.0).reshape(1, 4, 1)
    np.testing.assert_array_equal(tevad.align_length(text, 3)[0, :, 0], [0, 1, 2])
    np.testing.assert_array_equal(tevad.align_length(text, 6)[0, :, 0], [0, 1, 2, 3, 2, 3])


@pytest.mark.parametrize("name", DETECTORS)
def test_the_loss_does_not_depend_on_the_order_of_pairs(name):
    config = TrainConfig(detector=name, **SMALL)
    detector, variables, visual, text = _detector(name, config, videos=6)

    @jax.jit
    def values(outputs, text):
        terms = detectors.by_name(name).loss_terms(outputs, text, jnp.eye(3, 8), config)
        return {term: value.values_M.mean() for term, value in terms.items()}

    order = np.array([4, 5, 0, 1, 2, 3])
    expected = values(_outputs(detector, variables, visual, text), text)
    permuted = values(_outputs(detector, variables, visual[order], text[order]), text[order])
    for term in expected.keys() - {"triplet"}:  # Ties among unsuspected snippets go by index.
        np.testing.assert_allclose(permuted[term], expected[term], rtol=1e-5)


def _nearly_random(name, length, crops=2, **changes):
    config = TrainConfig(detector=name, **SMALL | {"heads": 2} | changes)
    return config, *_detector(name, config, length=length, videos=1, crops=crops)


def test_ur_dmu_scores_long_videos_in_blocks_as_at_once(monkeypatch):
    length, real = ur_dmu.LONG + 3 * ur_dmu.BLOCK + 5, ur_dmu.LONG + 70
    _, detector, variables, visual, _ = _nearly_random("ur_dmu", length)
    mask = (jnp.arange(length) < real).astype(jnp.float32)[None]

    def loss(params):
        scores = detector.apply({"params": params}, visual, None, mask).scores_VxT
        return jnp.mean(jnp.square(scores)), scores

    def run():
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    (_, in_blocks), gradient = run()
    monkeypatch.setattr(ur_dmu, "LONG", length)
    (_, at_once), expected = run()
    assert np.std(at_once) > 1e-3
    np.testing.assert_allclose(in_blocks, at_once, atol=1e-6)
    chex.assert_trees_all_close(gradient, expected, atol=1e-6)
    monkeypatch.setattr(ur_dmu, "LONG", 1)
    alone = detector.apply(variables, visual[:, :, :real]).scores_VxT
    np.testing.assert_allclose(in_blocks[:, :real], alone, atol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
def test_memory_grows_with_the_length_alone(name):
    """By the compiled program; with all pairs of snippets, twice the length took four times it."""
    config = TrainConfig(detector=name, **SMALL)
    variables = step.scoring_variables(step.init_state(config, 12, 8))

    def megabytes(length, crops):
        visual = jax.ShapeDtypeStruct((1, crops, length, 12), jnp.float32)
        text = jax.ShapeDtypeStruct((1, length, 8), jnp.float32) if config.uses_text else None
        program = step.make_score_step(config).lower(variables, visual, text, None).compile()
        return program.memory_analysis().temp_size_in_bytes / 1e6

    short, long = megabytes(20_000, 1), megabytes(40_000, 1)
    assert 1.8 < long / short < 2.2
    # 24 kB a snippet, where all pairs of 40,000 snippets and four heads would be 25.6 GB each.
    assert long < 40_000 * 24e-3
    # Crops are taken one at a time; only their scores are kept.
    assert megabytes(20_000, 10) < 1.2 * short + 10 * 20_000 * 4e-6


@pytest.mark.parametrize("name", DETECTORS)
def test_crops_one_at_a_time_score_as_all_at_once(name, monkeypatch):
    config, _, variables, visual, text = _nearly_random(name, 9, crops=3)
    text = text if config.uses_text else None
    at_once = step.make_score_step(config)(variables, visual, text, None)
    monkeypatch.setattr(step, "CROPS_AT_ONCE", 26)
    one_by_one = step.make_score_step(config)(variables, visual, text, None)
    np.testing.assert_allclose(one_by_one, at_once, atol=1e-6)


def _products(jaxpr):
    """The types of the operands of all matrix products and convolutions in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield tuple(str(operand.aval.dtype) for operand in equation.invars)
        for inner in jaxprs_in_params(equation.params):
            yield from _products(inner)


@pytest.mark.parametrize(("name", "length"), [*((n, 9) for n in DETECTORS), ("ur_dmu", 600)])
def test_every_product_is_in_the_precision_that_was_asked_for(name, length):
    """Forward and backward; but UR-DMU's divisor, sums of weights by distance, stays float32."""
    config = TrainConfig(detector=name, precision="bfloat16", **SMALL)
    detector, variables, visual, text = _detector(name, config, length=length, videos=4)
    params, visual, text = step.cast((variables["params"], visual, text), jnp.bfloat16)
    noise = layers.Noise(key=jax.random.key(3), videos_V=jnp.arange(4))

    def total(params):
        outputs, _ = detector.apply(
            variables | {"params": params}, visual, text, noise=noise, train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        leaves = jax.tree.leaves(outputs)
        return sum(jnp.sum(x) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))

    counts = collections.Counter(_products(jax.make_jaxpr(jax.grad(total))(params).jaxpr))
    divisors = counts.pop(("float32", "float32"), 0)
    assert divisors == (ur_dmu.LAYERS if name == "ur_dmu" else 0), counts
    assert counts.keys() == {("bfloat16", "bfloat16")} and counts.total() >= 9
