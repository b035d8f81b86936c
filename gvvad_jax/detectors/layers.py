"""What detectors are made of: outputs, noise, dense layers, normalisation.

Letters: V videos of the batch, N crops, T snippets, D features.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

# PyTorch's Xavier uniform, on kernels in the layouts of flax.
xavier = nn.initializers.xavier_uniform()


@chex.dataclass(frozen=True)
class Outputs:
    """What a detector says of a batch of videos.

    Attributes:
      scores_VxT: snippet scores in [0, 1], mean over crops.
      features_VxNxTxD: the scoring head's input, whose magnitude RTFM selects by.
      extra: what the detector's own losses need besides, by name; videos, or one half of them, on
        the leading axis.
    """

    scores_VxT: jax.Array
    features_VxNxTxD: jax.Array
    extra: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)


@chex.dataclass(frozen=True)
class Noise:
    """Where the randomness of a step comes from.

    Keys fold in the place of the video in the GLOBAL batch, so that a batch split over devices
    drops out the same entries as on one.

    Attributes:
      key: of this step.
      videos_V: places of these videos in the global batch.
      gaussian: set to be used instead of what is drawn, to repeat a measurement.
    """

    key: jax.Array
    videos_V: jax.Array
    gaussian: jax.Array | None = None


def per_video(noise: Noise, layer: int) -> jax.Array:
    """A key for each video [V]; `layer` is a number of the caller's own."""
    key = jax.random.fold_in(noise.key, layer)
    return jax.vmap(lambda video: jax.random.fold_in(key, video))(noise.videos_V)


def dropout(x_Vx: jax.Array, noise: Noise | None, rate: float, layer: int) -> jax.Array:
    """Drops entries at `rate` and scales the rest; the identity without noise.

    Args:
      x_Vx: videos on the leading axis.
      noise: None when not training.
      rate: share of entries dropped.
      layer: a number of this call's own, so that layers drop independently.
    """
    return dropped(x_Vx, kept(x_Vx.shape, noise, rate, layer), rate)


def dropped(x_Vx: jax.Array, kept_Vx: jax.Array | None, rate: float) -> jax.Array:
    """The entries that are kept, scaled; all of them as they are where nothing is to be dropped."""
    return x_Vx if kept_Vx is None else jnp.where(kept_Vx, x_Vx / (1.0 - rate), 0.0)


def kept(shape_Vx: Sequence[int], noise: Noise | None, rate: float, layer: int) -> jax.Array | None:
    """Which entries dropout keeps; None where nothing is to be dropped. See dropout."""
    if noise is None or rate == 0.0:
        return None
    keys_V = per_video(noise, layer)
    return jax.vmap(lambda key: _kept(key, 1.0 - rate, shape_Vx[1:]))(keys_V)


def _kept(key: jax.Array, share: float, shape: Sequence[int]) -> jax.Array:
    """True with probability `share`, rounded to 1/65536.

    jax.random.bernoulli hashes once an entry, which was a tenth of a step; one hash of Threefry
    has bits for four.
    """
    size = math.prod(shape)
    words = threefry(jax.random.key_data(key), -(-size // 4))
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)
    return (halves[:size] < round(share * 65536)).reshape(shape)


def threefry(key_2: jax.Array, count: int) -> jax.Array:
    """Threefry-2x32 of 0 ... 2 * count - 1, as jax.extend.random.threefry_2x32 gives it.

    Written out because XLA, on CPUs, makes a loop of jax's: five passes over memory and no fusion,
    nearly half of what dropout took. Source: Salmon et al., "Parallel random numbers", SC 2011.
    """
    schedule = key_2[0], key_2[1], key_2[0] ^ key_2[1] ^ jnp.uint32(0x1BD11BDA)
    numbers = jnp.arange(2 * count, dtype=jnp.uint32)
    x, y = numbers[:count] + schedule[0], numbers[count:] + schedule[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = x ^ ((y << turn) | (y >> (32 - turn)))
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return jnp.concatenate([x, y])


def gaussian(shape: Sequence[int], noise: Noise, layer: int) -> jax.Array:
    """Standard normal noise [V, ...] of this shape, a video each from its own key."""
    if noise.gaussian is not None:
        return noise.gaussian
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(per_video(noise, layer))


def batch_norm(train: bool, axis_name: str | None, **changes) -> Callable[[jax.Array], jax.Array]:
    """BatchNorm over everything but the features, statistics over all devices of `axis_name`."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        axis_name=axis_name,
        use_fast_variance=False,
        **changes,
    )


def probability(logits: jax.Array) -> jax.Array:
    """Sigmoid, in float32 at least: bfloat16 would leave scores two digits."""
    return nn.sigmoid(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


@jax.custom_vjp
def _product(x_xI: jax.Array, kernel_IxO: jax.Array) -> jax.Array:
    return x_xI @ kernel_IxO


def _product_forward(x_xI: jax.Array, kernel_IxO: jax.Array) -> tuple[jax.Array, Any]:
    return x_xI @ kernel_IxO, (x_xI, kernel_IxO)


def _product_backward(residuals: Any, gradient_xO: jax.Array) -> tuple[jax.Array, jax.Array]:
    # JAX has the gradient of the kernel as gradient' x, for which XLA on CPUs transposes the
    # gradient, and all that it fuses into it, column by column.
    x_xI, kernel_IxO = residuals
    x_RxI, gradient_RxO = (x.reshape(-1, x.shape[-1]) for x in (x_xI, gradient_xO))
    return gradient_xO @ kernel_IxO.T, x_RxI.T @ gradient_RxO


_product.defvjp(_product_forward, _product_backward)


def dense(features: int, name: str, *, bias: bool = True) -> nn.Module:
    """nn.Dense, trained at the speed of its forward pass on CPUs too; named in its caller."""
    return nn.Dense(
        features,
        use_bias=bias,
        kernel_init=xavier,
        dot_general=lambda x, kernel, *_, **__: _product(x, kernel),
        name=name,
    )


class CropDense(nn.Module):
    """`dense`, but what is the same for every crop is multiplied once a video.

    Attributes:
      features: channels that come out.
      shared: of the channels that come in, how many of the last are the same for every crop.
    """

    features: int
    shared: int

    @nn.compact
    def __call__(self, x_VxNxTxD: jax.Array) -> jax.Array:
        own = x_VxNxTxD.shape[-1] - self.shared
        kernel_DxC = self.param("kernel", xavier, (x_VxNxTxD.shape[-1], self.features))
        bias_C = self.param("bias", nn.initializers.zeros, (self.features,))
        of_video_Vx1xTxC = _product(x_VxNxTxD[:, :1, :, own:], kernel_DxC[own:])
        return _product(x_VxNxTxD[..., :own], kernel_DxC[:own]) + of_video_Vx1xTxC + bias_C
