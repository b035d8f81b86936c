"""What sees the past only: the parts of detectors of `--causal_window`.

A score then depends on the last W snippets, its own included, and on nothing else. Each layer gets
a share of those W - 1 past snippets, and the shares of layers that follow each other add up to at
most W - 1. So scoring the last W snippets as a video, or a whole video at once, gives the same.

Letters: x any leading axes, T snippets, C channels, B blocks, Q queries and K keys of a block.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from gvvad_jax.detectors.layers import longer

# Given queries, keys by name, which keys each query sees, and how long ago they were.
Attend = Callable[[jax.Array, Sequence[jax.Array], jax.Array, jax.Array], jax.Array]


def taps(size: int, past: int, dilation: int = 1) -> int:
    """Returns how many taps of a convolution reach back at most `past` snippets, at most `size`."""
    return min(size, past // dilation + 1)


def fold(x_MxTx: jax.Array, window: int) -> jax.Array:
    """Makes a sequence of each window in sequences of several windows: [M * T / W, W, ...]."""
    if x_MxTx.shape[1] % window:
        raise ValueError(
            f"x_MxTx: expected a multiple of {window} snippets, found {x_MxTx.shape[1]}"
        )
    return x_MxTx.reshape(-1, window, *x_MxTx.shape[2:])


def attend(
    queries_xTxC: jax.Array,
    values: Sequence[jax.Array],
    mask_xT: jax.Array,
    band: int,
    attend_block: Attend,
) -> jax.Array:
    """Lets each snippet look at the last `band` real snippets, its own included.

    Long sequences are cut into blocks that see themselves and the block before, so that memory and
    work grow with T alone.

    Args:
      queries_xTxC: queries.
      values: arrays [x, T, C] of keys, values and what else is looked at.
      mask_xT: 1 for real snippets, 0 for padding; may have axes of size 1 in front.
      band: snippets that each one sees, at least 1.
      attend_block: (queries_xBxQxC, values [x, B, K, C], seen_xBxQxK, ages_QxK) -> [x, B, Q, C],
        where seen is 1 for what a query may look at and else 0, and ages are in snippets.

    Returns:
      [x, T, C].
    """
    length = queries_xTxC.shape[-2]
    size = band if longer(length, 2 * band) else length
    num_blocks = -(-length // size)

    def in_blocks(x_xTxC: jax.Array) -> jax.Array:
        end = [(0, 0)] * (x_xTxC.ndim - 2) + [(0, num_blocks * size - length), (0, 0)]
        x_xTxC = jnp.pad(x_xTxC, end)
        return x_xTxC.reshape(*x_xTxC.shape[:-2], num_blocks, size, x_xTxC.shape[-1])

    def with_before(x_xTxC: jax.Array) -> jax.Array:
        own = in_blocks(x_xTxC)
        if num_blocks == 1:
            return own
        before = jnp.concatenate([jnp.zeros_like(own[..., :1, :, :]), own[..., :-1, :, :]], axis=-3)
        return jnp.concatenate([before, own], axis=-2)

    num_keys = size if num_blocks == 1 else 2 * size
    ages_QxK = jnp.arange(size)[:, None] + (num_keys - size) - jnp.arange(num_keys)
    in_band_QxK = (ages_QxK >= 0) & (ages_QxK < band)
    real_xBxK = with_before(mask_xT[..., None])[..., 0]
    seen_xBxQxK = real_xBxK[..., None, :] * in_band_QxK.astype(real_xBxK.dtype)
    keys = [with_before(value_xTxC) for value_xTxC in values]
    out = attend_block(in_blocks(queries_xTxC), keys, seen_xBxQxK, ages_QxK)
    return out.reshape(*out.shape[:-3], num_blocks * size, out.shape[-1])[..., :length, :]
