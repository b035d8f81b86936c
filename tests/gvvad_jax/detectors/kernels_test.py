"""Each kernel against its plain form: the same numbers, and the same gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gvvad_jax.detectors import kernels, layers, mtn


def _normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("count", [1, 7])
def test_random_words_equal_jaxs(count):
    key = jax.random.key_data(jax.random.key(5))
    np.testing.assert_array_equal(
        kernels.random_words(key, count), kernels.plain_random_words(key, count)
    )


@pytest.mark.parametrize("shape", [(1,), (3, 5), (4, 250)])
def test_bernoulli_equals_its_plain_form(shape):
    key = jax.random.key(5)
    np.testing.assert_array_equal(
        kernels.bernoulli(key, 0.3, shape), kernels.plain_bernoulli(key, 0.3, shape)
    )


def test_matmul_and_its_gradients_equal_the_plain_form():
    x, kernel = _normal(0, (3, 2, 5, 7)), _normal(1, (7, 4))

    def value_and_gradients(matmul):
        return jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(matmul(x, k))), (0, 1))(x, kernel)

    chex.assert_trees_all_close(
        value_and_gradients(kernels.matmul),
        value_and_gradients(kernels.plain_matmul),
        rtol=1e-5,
        atol=1e-5,
    )


def test_matmul_shared_and_its_gradients_equal_the_plain_form():
    own, shared, kernel = _normal(0, (3, 2, 5, 7)), _normal(1, (3, 1, 5, 3)), _normal(2, (10, 4))

    def value_and_gradients(matmul):
        def value(own, shared, kernel):
            x = jnp.concatenate([own, jnp.broadcast_to(shared, (3, 2, 5, 3))], axis=-1)
            return jnp.sum(jnp.sin(matmul(x, kernel, 3)))

        return jax.value_and_grad(value, (0, 1, 2))(own, shared, kernel)

    chex.assert_trees_all_close(
        value_and_gradients(kernels.matmul_shared),
        value_and_gradients(kernels.plain_matmul_shared),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("shared", [0, 3])
def test_dense_equals_flaxs_on_what_crops_share_and_elsewhere(shared):
    x = jnp.concatenate(
        [_normal(0, (3, 2, 5, 7)), jnp.broadcast_to(_normal(1, (3, 1, 5, 3)), (3, 2, 5, 3))], -1
    )
    flax_dense = nn.Dense(4, kernel_init=layers.xavier)
    params = flax_dense.init(jax.random.key(0), x)["params"]

    class Only(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.dense(4, "only", shared=shared)(x)

    chex.assert_trees_all_equal_shapes(Only().init(jax.random.key(0), x)["params"]["only"], params)
    np.testing.assert_allclose(
        Only().apply({"params": {"only": params}}, x),
        flax_dense.apply({"params": params}, x),
        rtol=1e-5,
        atol=1e-5,
    )


def test_score_selected_equals_its_plain_form_in_all_that_losses_see(monkeypatch):
    features = _normal(0, (4, 2, 7, 6))
    selected = jnp.asarray([[4, 1], [0, 2], [6, 3], [5, 1]])
    noise = layers.Noise(key=jax.random.key(3), videos_V=jnp.arange(4))
    head = mtn.Head((5, 4), 0.3)
    params = head.init(jax.random.key(1), features, None)

    def loss(params, features):
        scores_VxT = head.apply(params, features, noise, selected)
        selected_Vxk = jnp.take_along_axis(scores_VxT, selected, axis=1)
        return jnp.sum(selected_Vxk**2) + jnp.sum(scores_VxT[1::2] ** 3), scores_VxT

    def gradients():
        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, features)

    fast = gradients()
    monkeypatch.setattr(kernels, "score_selected", kernels.plain_score_selected)
    chex.assert_trees_all_close(fast, gradients(), rtol=1e-5, atol=1e-5)
    features_gradient = np.asarray(fast[1][1])
    assert not features_gradient[0, :, [0, 2, 3, 5, 6]].any()
    assert features_gradient[0, :, [1, 4]].any()
