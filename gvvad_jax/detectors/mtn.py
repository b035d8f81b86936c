"""The body and head that RTFM, TEVAD and LAP share: multi-scale temporal network and scorer.

Letters: M sequences, V videos of the batch, N crops, T snippets, D features. A mask marks real
snippets where videos of several lengths are padded to one; padding is set to zero between the
layers, which is what "same" convolutions see past a video's end. With a window, convolutions and
the non-local block see the past only; see causal.py.
"""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from gvvad_jax.detectors import causal, kernels
from gvvad_jax.detectors.layers import (
    Noise,
    apply_mask,
    batch_norm,
    dense,
    dropout_mask,
    longer,
    probability,
    xavier,
)


class NonLocal(nn.Module):
    """Non-local block: every snippet attends to every other, by an affinity without softmax.

    Attributes:
      channels: inner width of theta, phi and g.
      axis_name: the device axis that BatchNorm's statistics are taken over.
      band: how many snippets each one attends to, itself and the last ones; 0 for all.
    """

    channels: int
    axis_name: str | None = None
    band: int = 0

    @nn.compact
    def __call__(
        self,
        x_MxTxC: jax.Array,
        mask_MxTx1: jax.Array,
        train: bool,
        generated_M: jax.Array | None = None,
    ) -> jax.Array:
        theta_MxTxI = dense(self.channels, "theta")(x_MxTxC)
        phi_MxTxI = dense(self.channels, "phi")(x_MxTxC)
        g_MxTxI = dense(self.channels, "g")(x_MxTxC) * mask_MxTx1
        # A sequence of nothing but padding has length 0.
        length_Mx1x1 = jnp.maximum(jnp.sum(mask_MxTx1, axis=1, keepdims=True), 1.0)
        if self.band:
            context_MxTxI = causal.attend(
                theta_MxTxI, (phi_MxTxI, g_MxTxI), mask_MxTx1[..., 0], self.band, _affinity
            )
        # Without a softmax, (theta phi') g equals theta (phi' g): for a long video that is a matrix
        # over its channels instead of one over all pairs of its snippets.
        elif longer(x_MxTxC.shape[1], self.channels):
            context_MxIxI = jnp.einsum("mti,mtj->mij", phi_MxTxI, g_MxTxI) / length_Mx1x1
            context_MxTxI = theta_MxTxI @ context_MxIxI
        else:
            affinity_MxTxT = jnp.einsum("mti,msi->mts", theta_MxTxI, phi_MxTxI) / length_Mx1x1
            context_MxTxI = affinity_MxTxT @ g_MxTxI
        y_MxTxC = dense(x_MxTxC.shape[-1], "W")(context_MxTxI)
        norm = batch_norm(
            train, self.axis_name, "W_norm", generated_M, scale_init=nn.initializers.zeros
        )
        y_MxTxC = norm(y_MxTxC)
        return (x_MxTxC + y_MxTxC) * mask_MxTx1


def _affinity(
    theta_MxBxQxI: jax.Array,
    phi_and_g: Sequence[jax.Array],
    seen_MxBxQxK: jax.Array,
    ages_QxK: jax.Array,
) -> jax.Array:
    """The non-local block's attention to what is seen, divided by how many snippets that are."""
    del ages_QxK
    phi_MxBxKxI, g_MxBxKxI = phi_and_g
    count_MxBxQx1 = jnp.maximum(jnp.sum(seen_MxBxQxK, axis=-1, keepdims=True), 1.0)
    affinity_MxBxQxK = theta_MxBxQxI @ phi_MxBxKxI.swapaxes(-1, -2) * seen_MxBxQxK
    return affinity_MxBxQxK / count_MxBxQx1 @ g_MxBxKxI


class MTN(nn.Module):
    """Multi-scale temporal network: three dilated convolutions and a non-local block, fused.

    Source: RTFM (Tian et al., 2021), section 3.2.

    Attributes:
      channels: channels of each branch; 0 for a quarter of the input's, as published.
      axis_name: the device axis that BatchNorm's statistics are taken over.
      window: how many snippets an output depends on, its own and the last ones; 0 for all. Then
        training sequences are windows of so many snippets, one after another.
    """

    channels: int = 0
    axis_name: str | None = None
    window: int = 0

    @nn.compact
    def __call__(
        self,
        x_MxTxD: jax.Array,
        mask_MxT: jax.Array | None = None,
        *,
        train: bool,
        generated_M: jax.Array | None = None,
    ) -> jax.Array:
        """Maps M sequences, crops of videos or texts, from [M, T, D] to [M, T, D].

        `generated_M` tells which are generated, where BatchNorm is per domain; see batch_norm.
        """
        chex.assert_rank(x_MxTxD, 3)
        shape, width = x_MxTxD.shape, x_MxTxD.shape[-1]
        if self.window and train:
            assert mask_MxT is None
            if generated_M is not None:
                generated_M = jnp.repeat(generated_M, shape[1] // self.window)
            x_MxTxD = causal.fold(x_MxTxD, self.window)
        channels = self.channels or max(1, width // 4)
        mask_MxTx1 = jnp.ones(x_MxTxD.shape[:2]) if mask_MxT is None else mask_MxT
        mask_MxTx1 = mask_MxTx1.astype(x_MxTxD.dtype)[..., None]

        def conv(
            x: jax.Array, name: str, features: int, size: int, dilation: int = 1, bias: bool = True
        ) -> jax.Array:
            padding: Any = "CAUSAL" if self.window else "SAME"
            return nn.Conv(
                features, (size,), kernel_dilation=dilation, padding=padding, use_bias=bias,
                kernel_init=xavier, name=name,
            )(x)  # fmt: skip

        # How many taps the last convolution has, and how far back everything before it may look.
        fusing, past = 3, 0
        if self.window:
            fusing = causal.taps(3, self.window - 1)
            past = self.window - fusing

        def reach(dilation: int) -> int:
            return causal.taps(3, past, dilation) if self.window else 3

        def normed(x: jax.Array, name: str) -> jax.Array:
            norm = batch_norm(train, self.axis_name, f"{name}_norm", generated_M)
            return norm(nn.relu(x)) * mask_MxTx1

        x_MxTxD = x_MxTxD * mask_MxTx1
        branches = [
            normed(conv(x_MxTxD, f"conv_{i}", channels, reach(dilation), dilation), f"conv_{i}")
            for i, dilation in ((1, 1), (2, 2), (3, 4))
        ]
        reduced = nn.relu(conv(x_MxTxD, "conv_4", channels, 1, bias=False)) * mask_MxTx1
        band = past + 1 if self.window else 0
        non_local = NonLocal(max(1, channels // 2), self.axis_name, band, name="non_local")
        branches.append(non_local(reduced, mask_MxTx1, train, generated_M))
        fused = conv(jnp.concatenate(branches, -1), "conv_5", width, fusing, bias=False)
        return (normed(fused, "conv_5") + x_MxTxD).reshape(shape)


def over_crops(
    mtn: MTN,
    x_VxNxTxD: jax.Array,
    mask_VxT: jax.Array | None,
    train: bool,
    generated_V: jax.Array | None,
) -> jax.Array:
    """Runs the MTN on every crop of every video."""
    V, N, T, D = x_VxNxTxD.shape
    mask_MxT, generated_M = (
        None if of_V is None else jnp.repeat(of_V, N, axis=0) for of_V in (mask_VxT, generated_V)
    )
    x_MxTxD = x_VxNxTxD.reshape(V * N, T, D)
    y_MxTxD = mtn(x_MxTxD, mask_MxT, train=train, generated_M=generated_M)
    return y_MxTxD.reshape(V, N, T, D)


class Head(nn.Module):
    """Scoring head: an MLP on each snippet, sigmoid, mean over crops.

    Attributes:
      widths: widths of the hidden layers; empty for (512, 128), as published.
      rate: dropout rate after each hidden layer.
      shared: how many of the features' last channels are the same for every crop.
    """

    widths: Sequence[int] = ()
    rate: float = 0.7
    shared: int = 0

    @nn.compact
    def __call__(
        self, x_VxNxTxD: jax.Array, noise: Noise | None, selected_Vxk: jax.Array | None = None
    ) -> jax.Array:
        """Scores snippets.

        Args:
          x_VxNxTxD: the snippets' features.
          noise: the step's noise; None when not training.
          selected_Vxk: the snippets that the loss selects while training, where no loss looks at
            a normal video's other scores; see kernels.score_selected.

        Returns:
          Scores [V, T].
        """
        chex.assert_rank(x_VxNxTxD, 4)
        widths = self.widths or (512, 128)
        layers = [
            dense(width, f"fc{i}", shared=self.shared if i == 1 else 0)
            for i, width in enumerate((*widths, 1), start=1)
        ]
        masks = [
            dropout_mask((*x_VxNxTxD.shape[:-1], width), noise, self.rate, layer=100 + i)
            for i, width in enumerate(widths, start=1)
        ]

        def score(inputs: tuple[jax.Array, Sequence[jax.Array | None]]) -> jax.Array:
            x_MxNxSxD, masks = inputs
            for layer, mask_MxNxSxC in zip(layers, masks, strict=False):
                x_MxNxSxD = apply_mask(nn.relu(layer(x_MxNxSxD)), mask_MxNxSxC, self.rate)
            return jnp.mean(probability(layers[-1](x_MxNxSxD)[..., 0]), axis=1)

        if selected_Vxk is None:
            return score((x_VxNxTxD, masks))
        return kernels.score_selected(score, (x_VxNxTxD, masks), selected_Vxk)
