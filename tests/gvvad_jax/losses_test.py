"""Each loss term against numbers worked out by hand, with and without jit, and its gradient."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from gvvad_jax import losses


class LossesTest(chex.TestCase, parameterized.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_bag_loss(self):
        loss = self.variant(losses.bag_loss)
        # Mean score 0.5: -log 0.5 for either label.
        scores_k = jnp.array([0.2, 0.8, 0.5])
        np.testing.assert_allclose(loss(scores_k, jnp.array(1.0)), np.log(2), rtol=1e-6)
        np.testing.assert_allclose(loss(scores_k, jnp.array(0.0)), np.log(2), rtol=1e-6)
        # Mean 0.25, abnormal: log 4.
        np.testing.assert_allclose(loss(jnp.array([0.25]), jnp.array(1.0)), np.log(4), rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_ranking_loss(self):
        loss = self.variant(losses.ranking_loss)
        # 1 - 0.7 + 0.4; and nothing where the abnormal maximum is a whole unit above.
        normal_T, abnormal_T = jnp.array([0.1, 0.4]), jnp.array([0.7, 0.2])
        np.testing.assert_allclose(loss(normal_T, abnormal_T), 0.7, rtol=1e-6)
        np.testing.assert_allclose(loss(jnp.zeros(2), jnp.array([0.0, 1.0])), 0.0)

    @chex.variants(with_jit=True, without_jit=True)
    def test_magnitude_loss(self):
        loss = self.variant(lambda n, a: losses.magnitude_loss(n, a, 10.0))
        # ||mean normal|| = ||(3, 4)|| = 5; ||mean abnormal|| = ||(0, 2)|| = 2: (8 + 5)^2.
        normal_kxD = jnp.array([[3.0, 0.0], [3.0, 8.0]])
        abnormal_kxD = jnp.array([[1.0, 2.0], [-1.0, 2.0]])
        np.testing.assert_allclose(loss(normal_kxD, abnormal_kxD), 169.0, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_smoothness_and_sparsity(self):
        scores_T = jnp.array([0.1, 0.4, 0.2])
        np.testing.assert_allclose(
            self.variant(losses.smoothness)(scores_T), 0.09 + 0.04, rtol=1e-6
        )
        np.testing.assert_allclose(self.variant(losses.sparsity)(scores_T), 0.7, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_pseudo_anomaly_loss(self):
        loss = self.variant(losses.pseudo_anomaly_loss)(jnp.array([0.5, 0.25]), jnp.array([0, 1]))
        np.testing.assert_allclose(loss, (np.log(2) + np.log(4)) / 2, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_triplet_loss(self):
        loss = self.variant(losses.triplet_loss)
        origin = jnp.zeros(2)
        # 1 + 5 - 2 = 4; and nothing where the negative is far enough.
        near, far = jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])
        np.testing.assert_allclose(loss(origin, near, far), 4.0, rtol=1e-5)
        np.testing.assert_allclose(loss(origin, far, 10 * near), 0.0)

    @chex.variants(with_jit=True, without_jit=True)
    def test_attention_loss(self):
        loss = self.variant(losses.attention_loss)
        # 16 snippets: the mean of the two highest, 0.5 and 0.3.
        attention_T = jnp.full(16, 0.1).at[3].set(0.5).at[9].set(0.3)
        np.testing.assert_allclose(loss(attention_T, jnp.array(1.0)), -np.log(0.4), rtol=1e-6)
        np.testing.assert_allclose(loss(attention_T, jnp.array(0.0)), -np.log(0.6), rtol=1e-6)
        np.testing.assert_allclose(loss(attention_T[3:4], jnp.array(1.0)), np.log(2), rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_kl_loss(self):
        loss = self.variant(losses.kl_loss)
        # Two steps of time, two channels; 1 + 0 - mu^2 - 1 summed over time: -5 and -1.
        mu_TxC = jnp.array([[1.0, 1.0], [2.0, 0.0]])
        np.testing.assert_allclose(loss(mu_TxC, jnp.zeros((2, 2))), 0.5 * (5 + 1) / 2, rtol=1e-6)
        var_TxC = jnp.full((2, 2), np.log(2.0))
        expected = -0.5 * 2 * (1 + np.log(2) - 2)
        np.testing.assert_allclose(loss(jnp.zeros((2, 2)), var_TxC), expected, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_distance_loss(self):
        loss = self.variant(lambda n, a: losses.distance_loss(n, a, 10.0))
        normal_kxC = jnp.array([[3.0, 0.0], [3.0, 8.0]])  # Mean (3, 4), length 5.
        np.testing.assert_allclose(loss(normal_kxC, jnp.array([[0.0, 2.0]])), 13.0, rtol=1e-6)
        np.testing.assert_allclose(loss(normal_kxC, jnp.array([[0.0, 20.0]])), 0.0)

    def test_label_weights_reach_the_losses_of_one_video_alone(self):
        one = losses.Term(
            values_M=jnp.array([1.0, 2.0]), videos_MxJ=jnp.array([[0], [1]]), weight=1.0
        )
        pair = losses.Term(values_M=jnp.array([4.0]), videos_MxJ=jnp.array([[0, 1]]), weight=1.0)
        weighted = losses.weigh_labels({"one": one, "pair": pair}, 3.0, 0.5)
        np.testing.assert_allclose(weighted["one"].values_M, [3.0, 1.0])
        np.testing.assert_allclose(weighted["pair"].values_M, [4.0])

    @parameterized.parameters(3, 32)
    def test_reference_regularisers_cross_the_borders_of_videos(self, length):
        scores_BxT = jnp.stack([jnp.zeros(length), jnp.ones(length)])
        smoothness, sparsity = losses.reference_smoothness_and_sparsity(scores_BxT)
        np.testing.assert_allclose(smoothness, 1.0)  # The one step from video 0 to video 1.
        np.testing.assert_allclose(sparsity, np.sqrt(length), rtol=1e-6)

    def test_reference_regularisers_of_64_snippets_have_two_columns(self):
        scores_BxT = jnp.zeros((1, 64)).at[0, 10].set(3.0).at[0, 31].set(1.0)
        smoothness, sparsity = losses.reference_smoothness_and_sparsity(scores_BxT)
        # Column 0 holds the 3 (up and down: 18), column 1 the 1 (2); norms 3 and 1.
        np.testing.assert_allclose(smoothness, 20.0)
        np.testing.assert_allclose(sparsity, 2.0)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_cross_entropy_is_clamped_as_in_pytorch(probability):
    loss = losses.binary_cross_entropy(jnp.array(probability), jnp.array(1.0 - probability))
    np.testing.assert_allclose(loss, 100.0)
    gradient = jax.grad(losses.binary_cross_entropy)(probability, 1.0 - probability)
    assert np.isfinite(gradient)


def test_the_norm_of_zero_has_no_nan_gradient():
    np.testing.assert_array_equal(jax.grad(losses.norm)(jnp.zeros(3)), np.zeros(3))
    np.testing.assert_allclose(jax.grad(losses.norm)(jnp.array([3.0, 4.0])), [0.6, 0.8])


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda x: losses.bag_loss(x, jnp.array(1.0)), (3,)),
        (lambda x: losses.ranking_loss(x[0], x[1]), (2, 5)),
        (lambda x: losses.magnitude_loss(x[0], x[1], 10.0), (2, 3, 4)),
        (losses.smoothness, (6,)),
        (losses.sparsity, (6,)),
        (lambda x: losses.pseudo_anomaly_loss(x, jnp.array([0.0, 1.0, 1.0])), (3,)),
        (lambda x: losses.triplet_loss(x[0], x[1], x[2], 3.0), (3, 4)),
        (lambda x: sum(losses.reference_smoothness_and_sparsity(x)), (2, 64)),
        (lambda x: losses.attention_loss(x, jnp.array(1.0)), (20,)),
        (lambda x: losses.kl_loss(x[0], x[1]), (2, 5, 3)),
        (lambda x: losses.distance_loss(x[0], x[1], 10.0), (2, 3, 4)),
    ],
)
def test_gradients_against_finite_differences(loss, shapes):
    x = 0.1 + 0.8 * jax.random.uniform(jax.random.key(0), shapes)
    chex.assert_numerical_grads(loss, (x,), order=1, atol=2e-2, rtol=2e-2)


def test_wrong_shapes_name_the_argument():
    with pytest.raises(ValueError, match=r"^scores_T: expected an array of 1 axes.* \[2, 3\]$"):
        losses.smoothness(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="^label: expected an array of 0 axes"):
        losses.bag_loss(jnp.zeros(3), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"^normal_kxD, abnormal_kxD: .* \[2, 3\], \[2, 4\]$"):
        losses.magnitude_loss(jnp.zeros((2, 3)), jnp.zeros((2, 4)), 1.0)
