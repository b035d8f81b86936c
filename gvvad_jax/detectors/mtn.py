"""The body and head that RTFM, TEVAD and LAP share: multi-scale temporal network and scorer.

Letters: M sequences, V videos of the batch, N crops, T snippets, D features. A mask marks real
snippets where videos of several lengths are padded to one; padding is set to zero between the
layers, which is what "same" convolutions see past a video's end.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from gvvad_jax.detectors.layers import (
    CropDense,
    Noise,
    batch_norm,
    dense,
    dropped,
    kept,
    probability,
    xavier,
)


class NonLocal(nn.Module):
    """Non-local block: every snippet sees every other, by an affinity without softmax."""

    channels: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x_MxTxC: jax.Array, mask_MxTx1: jax.Array, train: bool) -> jax.Array:
        theta_MxTxI = dense(self.channels, "theta")(x_MxTxC)
        phi_MxTxI = dense(self.channels, "phi")(x_MxTxC)
        g_MxTxI = dense(self.channels, "g")(x_MxTxC) * mask_MxTx1
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
        y_MxTxC = dense(x_MxTxC.shape[-1], "W")(seen_MxTxI)
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

        def layer(i: int, width: int) -> nn.Module:
            if i == 1 and self.shared:
                return CropDense(width, self.shared, name="fc1")
            return dense(width, f"fc{i}")

        layers = [layer(i, width) for i, width in enumerate((*widths, 1), start=1)]
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
