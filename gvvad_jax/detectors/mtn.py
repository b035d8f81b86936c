"""The body and head that RTFM, TEVAD and LAP share: multi-scale temporal network, scorer, dropout.

Letters: V videos of the batch, N crops, T snippets, D features. A mask marks real snippets where
videos of several lengths are padded to one; padding is set to zero between the layers, which is
what "same" convolutions see past a video's end.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

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
      extra: what the detector's own losses need besides, by name, videos on the leading axis.
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
      gaussian_Vx: set to be used instead of what is drawn, to repeat a measurement.
    """

    key: jax.Array
    videos_V: jax.Array
    gaussian_Vx: jax.Array | None = None


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
    if noise.gaussian_Vx is not None:
        return noise.gaussian_Vx
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


class NonLocal(nn.Module):
    """Non-local block: every snippet sees every other, by an affinity without softmax."""

    channels: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x_MxTxC: jax.Array, mask_MxTx1: jax.Array, train: bool) -> jax.Array:
        def dense(name: str, features: int) -> nn.Module:
            return nn.Dense(features, kernel_init=xavier, name=name)

        theta_MxTxI = dense("theta", self.channels)(x_MxTxC)
        phi_MxTxI = dense("phi", self.channels)(x_MxTxC)
        g_MxTxI = dense("g", self.channels)(x_MxTxC) * mask_MxTx1
        # A row that is all padding has length 0.
        length_Mx1x1 = jnp.maximum(jnp.sum(mask_MxTx1, axis=1, keepdims=True), 1.0)
        # Without a softmax, theta (phi' g) is (theta phi') g: of a long video a matrix of its
        # channels instead of one of all its pairs of snippets.
        if x_MxTxC.shape[1] > self.channels:
            context_MxIxI = jnp.einsum("mti,mtj->mij", phi_MxTxI, g_MxTxI) / length_Mx1x1
            seen_MxTxI = theta_MxTxI @ context_MxIxI
        else:
            affinity_MxTxT = jnp.einsum("mti,msi->mts", theta_MxTxI, phi_MxTxI) / length_Mx1x1
            seen_MxTxI = affinity_MxTxT @ g_MxTxI
        y_MxTxC = dense("W", x_MxTxC.shape[-1])(seen_MxTxI)
        zeros = nn.initializers.zeros
        y_MxTxC = batch_norm(train, self.axis_name, scale_init=zeros, name="W_norm")(y_MxTxC)
        return (x_MxTxC + y_MxTxC) * mask_MxTx1


class MTN(nn.Module):
    """Multi-scale temporal network: three dilated convolutions and a non-local block, fused.

    Source: RTFM (Tian et al., 2021), section 3.2.

    Attributes:
      channels: of each branch; 0 for a quarter of the input's, as published.
      axis_name: the device axis that BatchNorm's statistics are taken over.
    """

    channels: int = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x_MxTxD: jax.Array, mask_MxT: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """[M, T, D] -> [M, T, D]; M sequences, be it crops of videos or texts."""
        chex.assert_rank(x_MxTxD, 3)
        width = x_MxTxD.shape[-1]
        channels = self.channels or max(1, width // 4)
        mask_MxTx1 = jnp.ones(x_MxTxD.shape[:2]) if mask_MxT is None else mask_MxT
        mask_MxTx1 = mask_MxTx1.astype(x_MxTxD.dtype)[..., None]

        def conv(x, name: str, features: int, size: int, dilation: int = 1, bias: bool = True):
            return nn.Conv(
                features, (size,), kernel_dilation=dilation, use_bias=bias, kernel_init=xavier,
                name=name,
            )(x)  # fmt: skip

        def normed(x, name: str) -> jax.Array:
            return batch_norm(train, self.axis_name, name=f"{name}_norm")(nn.relu(x)) * mask_MxTx1

        x_MxTxD = x_MxTxD * mask_MxTx1
        branches = [
            normed(conv(x_MxTxD, f"conv_{i}", channels, 3, dilation), f"conv_{i}")
            for i, dilation in ((1, 1), (2, 2), (3, 4))
        ]
        reduced = nn.relu(conv(x_MxTxD, "conv_4", channels, 1, bias=False)) * mask_MxTx1
        non_local = NonLocal(max(1, channels // 2), self.axis_name, name="non_local")
        branches.append(non_local(reduced, mask_MxTx1, train))
        fused = conv(jnp.concatenate(branches, -1), "conv_5", width, 3, bias=False)
        return normed(fused, "conv_5") + x_MxTxD


def over_crops(mtn: MTN, x_VxNxTxD: jax.Array, mask_VxT: jax.Array | None, train: bool):
    """Runs the MTN on every crop of every video."""
    V, N, T, D = x_VxNxTxD.shape
    mask_MxT = None if mask_VxT is None else jnp.repeat(mask_VxT, N, axis=0)
    return mtn(x_VxNxTxD.reshape(V * N, T, D), mask_MxT, train=train).reshape(V, N, T, D)


class _Dense(nn.Module):
    """nn.Dense, but what is the same for every crop is multiplied once a video.

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
        of_video_Vx1xTxC = x_VxNxTxD[:, :1, :, own:] @ kernel_DxC[own:]
        return x_VxNxTxD[..., :own] @ kernel_DxC[:own] + of_video_Vx1xTxC + bias_C


class Head(nn.Module):
    """Scoring head: an MLP on each snippet, sigmoid, mean over crops.

    Attributes:
      widths: of the hidden layers; empty for (512, 128), as published.
      rate: of the dropout behind each.
      shared: of the features' last channels, how many are the same for every crop.
    """

    widths: Sequence[int] = ()
    rate: float = 0.7
    shared: int = 0

    @nn.compact
    def __call__(
        self, x_VxNxTxD: jax.Array, noise: Noise | None, selected_Vxk: jax.Array | None = None
    ) -> jax.Array:
        """Scores [V, T].

        Args:
          x_VxNxTxD: features.
          noise: of dropout, or None.
          selected_Vxk: while training, the snippets that the loss selects. Of a normal video
            (the even ones) no other score has a gradient in any of the losses, so no other is
            given one: nearly half of the way back through the head.
        """
        chex.assert_rank(x_VxNxTxD, 4)
        widths = self.widths or (512, 128)

        def dense(i: int, width: int) -> nn.Module:
            if i == 1 and self.shared:
                return _Dense(width, self.shared, name="fc1")
            return nn.Dense(width, kernel_init=xavier, name=f"fc{i}")

        layers = [dense(i, width) for i, width in enumerate((*widths, 1), start=1)]
        kepts = [
            kept((*x_VxNxTxD.shape[:-1], width), noise, self.rate, layer=100 + i)
            for i, width in enumerate(widths, start=1)
        ]

        def scores(x_MxNxSxD: jax.Array, kepts: Sequence[jax.Array | None]) -> jax.Array:
            for layer, kept_MxNxSxC in zip(layers, kepts, strict=False):
                x_MxNxSxD = dropped(nn.relu(layer(x_MxNxSxD)), kept_MxNxSxC, self.rate)
            return jnp.mean(probability(layers[-1](x_MxNxSxD)[..., 0]), axis=1)

        if selected_Vxk is None:
            return scores(x_VxNxTxD, kepts)
        V, _, T, _ = x_VxNxTxD.shape
        pairs = jax.tree.map(lambda x: x.reshape(V // 2, 2, *x.shape[1:]), (x_VxNxTxD, kepts))
        selected_Bxk = selected_Vxk[0::2]

        def with_gradient(x_Bx2xNxTxC):
            rows = jnp.take_along_axis(x_Bx2xNxTxC[:, 0], selected_Bxk[:, None, :, None], axis=2)
            return jnp.concatenate([x_Bx2xNxTxC[:, 1], rows], axis=2)

        found = scores(*jax.tree.map(with_gradient, pairs))
        normal = jax.lax.stop_gradient(scores(*jax.tree.map(lambda x: x[:, 0], pairs)))
        abnormal_BxT, chosen_Bxk = found[:, :T], found[:, T:]
        normal_BxT = jax.vmap(lambda x, at, y: x.at[at].set(y))(normal, selected_Bxk, chosen_Bxk)
        return jnp.stack([normal_BxT, abnormal_BxT], axis=1).reshape(V, T)
