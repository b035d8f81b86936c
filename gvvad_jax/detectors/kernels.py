"""Fast forms of plain operations, each with its slow plain form beside it.

XLA on CPUs compiles the plain forms badly. They stay here as the tests' reference and as an
explanation; nothing else calls them. Letters: V videos, N crops, T snippets, D and C features.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32


def random_words(key_2: jax.Array, count: int) -> jax.Array:
    """Draws 2 * count random 32-bit words: Threefry-2x32 of the numbers 0 ... 2 * count - 1.

    XLA on CPUs turns JAX's own Threefry into a loop of five passes over memory without fusion,
    nearly half of the time that dropout took. Source: Salmon et al., "Parallel random numbers",
    SC 2011.

    Args:
      key_2: the two words of a key, uint32.
      count: half the number of words.

    Returns:
      uint32 [2 * count].
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


def plain_random_words(key_2: jax.Array, count: int) -> jax.Array:
    """The plain form of `random_words`."""
    return threefry_2x32(key_2, jnp.arange(2 * count, dtype=jnp.uint32))


def bernoulli(key: jax.Array, share: float, shape: Sequence[int]) -> jax.Array:
    """Draws True with probability `share`, rounded to 1/65536.

    jax.random.bernoulli hashes once for each entry, which took a tenth of a training step. Here
    one hash gives the bits of four entries.
    """
    size = math.prod(shape)
    words = random_words(jax.random.key_data(key), -(-size // 4))
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)
    return (halves[:size] < round(share * 65536)).reshape(shape)


def plain_bernoulli(key: jax.Array, share: float, shape: Sequence[int]) -> jax.Array:
    """The plain form of `bernoulli`: the low, then the high half of each word is one entry."""
    size = math.prod(shape)
    words = plain_random_words(jax.random.key_data(key), -(-size // 4))
    halves = jnp.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(-1)
    return (halves[:size] < round(share * 65536)).reshape(shape)


@jax.custom_vjp
def matmul(x_xD: jax.Array, kernel_DxC: jax.Array) -> jax.Array:
    """Multiplies [..., D] by [D, C], with a gradient of the kernel that is fast on CPUs.

    JAX computes the kernel's gradient as gradient' x. For that XLA on CPUs transposes the
    gradient, and everything that it fuses into it, column by column. Here it is x' gradient.
    """
    return x_xD @ kernel_DxC


def _matmul_forward(
    x_xD: jax.Array, kernel_DxC: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x_xD @ kernel_DxC, (x_xD, kernel_DxC)


def _matmul_backward(
    residuals: tuple[jax.Array, jax.Array], gradient_xC: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_xD, kernel_DxC = residuals
    x_RxD, gradient_RxC = (x.reshape(-1, x.shape[-1]) for x in (x_xD, gradient_xC))
    return gradient_xC @ kernel_DxC.T, x_RxD.T @ gradient_RxC


matmul.defvjp(_matmul_forward, _matmul_backward)


def plain_matmul(x_xD: jax.Array, kernel_DxC: jax.Array) -> jax.Array:
    """The plain form of `matmul`."""
    return x_xD @ kernel_DxC


def matmul_shared(x_VxNxTxD: jax.Array, kernel_DxC: jax.Array, shared: int) -> jax.Array:
    """Multiplies as `matmul`, but the features that all crops share once for each video.

    Args:
      x_VxNxTxD: features of each crop.
      kernel_DxC: the weights.
      shared: how many of the last features are the same for every crop.
    """
    own = x_VxNxTxD.shape[-1] - shared
    video_Vx1xTxC = matmul(x_VxNxTxD[:, :1, :, own:], kernel_DxC[own:])
    return matmul(x_VxNxTxD[..., :own], kernel_DxC[:own]) + video_Vx1xTxC


def plain_matmul_shared(x_VxNxTxD: jax.Array, kernel_DxC: jax.Array, shared: int) -> jax.Array:
    """The plain form of `matmul_shared`."""
    del shared
    return x_VxNxTxD @ kernel_DxC


def score_selected(
    score: Callable[[Any], jax.Array], inputs_VxNxTx: Any, selected_Vxk: jax.Array
) -> jax.Array:
    """Scores snippets; of a normal video only the selected snippets' scores have a gradient.

    No loss looks at a normal video's other scores, so their gradient is zero anyway. Leaving it
    out saves nearly half of the backward pass through the scoring head.

    Args:
      score: maps a tree of arrays [M, N, S, ...] to scores [M, S], each snippet on its own.
      inputs_VxNxTx: tree of arrays [V, N, T, ...]; videos are normal 0, abnormal 0, normal 1, ...
      selected_Vxk: indices of the snippets that the loss selects.

    Returns:
      Scores [V, T].
    """
    pairs = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), inputs_VxNxTx)
    selected_Bxk = selected_Vxk[0::2]

    def rows_with_gradient(x_Bx2xNxTx: jax.Array) -> jax.Array:
        rows = jnp.take_along_axis(x_Bx2xNxTx[:, 0], selected_Bxk[:, None, :, None], axis=2)
        return jnp.concatenate([x_Bx2xNxTx[:, 1], rows], axis=2)

    scores = score(jax.tree.map(rows_with_gradient, pairs))
    normal_BxT = jax.lax.stop_gradient(score(jax.tree.map(lambda x: x[:, 0], pairs)))
    abnormal_BxT = scores[:, : normal_BxT.shape[1]]
    chosen_Bxk = scores[:, normal_BxT.shape[1] :]
    normal_BxT = jax.vmap(lambda x, at, y: x.at[at].set(y))(normal_BxT, selected_Bxk, chosen_Bxk)
    return jnp.stack([normal_BxT, abnormal_BxT], axis=1).reshape(-1, normal_BxT.shape[1])


def plain_score_selected(
    score: Callable[[Any], jax.Array], inputs_VxNxTx: Any, selected_Vxk: jax.Array
) -> jax.Array:
    """The plain form of `score_selected`."""
    del selected_Vxk
    return score(inputs_VxNxTx)
