"""The parts that detectors share: outputs, noise, dropout, dense layers, normalisation.

Letters: V videos of the batch, N crops, T snippets, D features.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from gvvad_jax.detectors import kernels

# PyTorch's Xavier uniform, on kernels in the layouts of flax.
xavier = nn.initializers.xavier_uniform()


# BatchNorm's, which are PyTorch's defaults.
_MOMENTUM, _EPSILON = 0.9, 1e-5


class Outputs(struct.PyTreeNode, kw_only=True):
    """A detector's outputs for a batch of videos.

    Attributes:
      scores_VxT: snippet scores in [0, 1], mean over crops.
      features_VxNxTxD: the scoring head's input, whose magnitude RTFM selects by.
      extra: what the detector's own losses need besides, by name; videos, or one half of them, on
        the leading axis.
    """

    scores_VxT: jax.Array
    features_VxNxTxD: jax.Array
    extra: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)


class Noise(struct.PyTreeNode, kw_only=True):
    """The source of a training step's randomness.

    Keys fold in the place of the video in the GLOBAL batch, so that a batch split over devices
    drops out the same entries as a batch on one device.

    Attributes:
      key: the key of this step.
      videos_V: places of these videos in the global batch.
      gaussian: values to use instead of random ones, which repeats a measurement; None draws them.
    """

    key: jax.Array
    videos_V: jax.Array
    gaussian: jax.Array | None = None


def video_keys(noise: Noise, layer: int) -> jax.Array:
    """A key for each video [V]; `layer` is the caller's own number."""
    key = jax.random.fold_in(noise.key, layer)
    return jax.vmap(lambda video: jax.random.fold_in(key, video))(noise.videos_V)


def dropout(x_Vx: jax.Array, noise: Noise | None, rate: float, layer: int) -> jax.Array:
    """Drops entries at `rate` and scales the rest; the identity without noise.

    Args:
      x_Vx: videos on the leading axis.
      noise: the step's noise; None when not training.
      rate: share of entries dropped.
      layer: a number of this call's own, so that layers drop independently.
    """
    return apply_mask(x_Vx, dropout_mask(x_Vx.shape, noise, rate, layer), rate)


def dropout_mask(
    shape_Vx: Sequence[int], noise: Noise | None, rate: float, layer: int
) -> jax.Array | None:
    """The entries that dropout keeps; None where it drops none. See dropout."""
    if noise is None or rate == 0.0:
        return None
    keys_V = video_keys(noise, layer)
    return jax.vmap(lambda key: kernels.bernoulli(key, 1.0 - rate, shape_Vx[1:]))(keys_V)


def apply_mask(x_Vx: jax.Array, mask_Vx: jax.Array | None, rate: float) -> jax.Array:
    """Zeroes the entries outside a dropout mask and scales the rest; the identity for None."""
    return x_Vx if mask_Vx is None else jnp.where(mask_Vx, x_Vx / (1.0 - rate), 0.0)


def gaussian(shape: Sequence[int], noise: Noise, layer: int) -> jax.Array:
    """Standard normal noise [V, ...] of this shape, each video's from its own key."""
    if noise.gaussian is not None:
        return noise.gaussian
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(video_keys(noise, layer))


def batch_norm(
    train: bool,
    axis_name: str | None,
    name: str,
    generated_M: jax.Array | None = None,
    **changes: Any,
) -> Callable[[jax.Array], jax.Array]:
    """BatchNorm over everything but the features, statistics over all devices of `axis_name`.

    Args:
      train: whether to normalise by the batch's statistics instead of the running ones.
      axis_name: the device axis.
      name: the layer's name in the module that calls this.
      generated_M: which of the batch's sequences are generated, where real and generated ones are
        normalised apart; None normalises all together.
      changes: further attributes of nn.BatchNorm.
    """
    if train and generated_M is not None:
        layer = DomainBatchNorm(axis_name=axis_name, name=name, **changes)
        return lambda x_MxTxC: layer(x_MxTxC, generated_M)
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=_MOMENTUM,
        epsilon=_EPSILON,
        axis_name=axis_name,
        use_fast_variance=False,
        name=name,
        **changes,
    )


class DomainBatchNorm(nn.Module):
    """BatchNorm while training, with statistics of their own for real and for generated videos.

    Generated videos would otherwise shift what real ones are normalised by, at full weight whatever
    lambda is. Scale and shift are shared, unlike in auxiliary BatchNorm (Xie et al., CVPR 2020)
    and domain-specific BatchNorm (Chang et al., CVPR 2019): a scale of their own would be a second
    lambda, and at scoring all videos are real. Running statistics are of real videos alone; where
    a batch has none, they stay. Parameters and statistics have nn.BatchNorm's names.

    Sums, squared deviations and counts are added up over devices before they are divided, so that a
    device, or a batch, may lack a domain.

    Attributes:
      axis_name: the device axis that statistics are taken over.
      scale_init: the scale's initialisation.
    """

    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x_MxTxC: jax.Array, generated_M: jax.Array) -> jax.Array:
        """Normalises sequences; `generated_M` tells which of them are generated."""
        width = x_MxTxC.shape[-1]
        scale_C = self.param("scale", self.scale_init, (width,))
        bias_C = self.param("bias", nn.initializers.zeros, (width,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,))
        wide_MxTxC = x_MxTxC.astype(jnp.promote_types(x_MxTxC.dtype, jnp.float32))
        domain_M = generated_M.astype(jnp.int32)
        member_DxM = jnp.stack([domain_M == 0, domain_M == 1]).astype(wide_MxTxC.dtype)

        def total(of_DxC: jax.Array) -> jax.Array:
            return jax.lax.psum(of_DxC, self.axis_name) if self.axis_name else of_DxC

        count_Dx1 = total(jnp.sum(member_DxM, axis=1, keepdims=True) * x_MxTxC.shape[1])
        divisor_Dx1 = jnp.maximum(count_Dx1, 1.0)

        def mean(values_MxTxC: jax.Array) -> jax.Array:
            # No matrix product, because some devices would round its factors.
            sums_MxC = jnp.sum(values_MxTxC, axis=1)
            return total(jnp.sum(member_DxM[..., None] * sums_MxC, axis=1)) / divisor_Dx1

        mean_DxC = mean(wide_MxTxC)
        deviation_MxTxC = wide_MxTxC - mean_DxC[domain_M][:, None]
        var_DxC = mean(jnp.square(deviation_MxTxC))
        if not self.is_initializing():
            for running, now_DxC in ((running_mean, mean_DxC), (running_var, var_DxC)):
                moved_C = _MOMENTUM * running.value + (1.0 - _MOMENTUM) * now_DxC[0]
                running.value = jnp.where(count_Dx1[0] > 0, moved_C, running.value)
        factor_DxC = jax.lax.rsqrt(var_DxC + _EPSILON) * scale_C
        normed_MxTxC = deviation_MxTxC * factor_DxC[domain_M][:, None] + bias_C
        return normed_MxTxC.astype(jnp.promote_types(x_MxTxC.dtype, scale_C.dtype))


def longer(size: int, limit: int) -> bool:
    """Returns whether a size is above a limit; a size that export leaves open counts as above.

    Where a detector computes short and long videos differently, an exported program has one form.
    """
    return not isinstance(size, int) or size > limit


def probability(logits: jax.Array) -> jax.Array:
    """Sigmoid, in float32 at least: bfloat16 would leave scores two digits."""
    return nn.sigmoid(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def dense(features: int, name: str, *, bias: bool = True, shared: int = 0) -> nn.Module:
    """A dense layer: nn.Dense with Xavier initialisation and a fast matrix product.

    Args:
      features: channels of the output.
      name: the layer's name in the module that calls this.
      bias: whether to add a bias.
      shared: how many of the input's last channels are the same for every crop; where there are
        any, the input is [V, N, T, D].
    """

    def multiply(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
        return kernels.matmul_shared(x, kernel, shared) if shared else kernels.matmul(x, kernel)

    return nn.Dense(features, use_bias=bias, kernel_init=xavier, dot_general=multiply, name=name)
