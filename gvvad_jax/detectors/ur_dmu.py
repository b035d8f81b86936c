"""UR-DMU: uncertainty-regulated dual memory units (Zhou et al., AAAI 2023). Visual features only.

The body is a convolution and two layers of attention. Every snippet is then read through two
memories, of abnormal and of normal patterns, and normality is modelled as a Gaussian.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from gvvad_jax import losses
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors import causal
from gvvad_jax.detectors.layers import (
    Noise,
    Outputs,
    dense,
    dropout,
    gaussian,
    longer,
    probability,
    xavier,
)

# As published: the body's dropout rate and number of layers, and the weight of each loss term.
RATE = 0.5
LAYERS = 2
ATTENTION_WEIGHT = 0.1
TRIPLET_WEIGHT = 0.1
KL_WEIGHT = 1e-3
DISTANCE_WEIGHT = 1e-4
# Longer sequences are attended to in blocks of so many queries, one sequence at a time.
LONG = 512
BLOCK = 128
# Beyond so many snippets exp(-distance / e) is 0 in float32, and below 1e-50 in float64.
REACH = 320


def nearness(mask_MxT: jax.Array) -> jax.Array:
    """Attention by distance: A[i, j] = exp(-|i - j| / e) / sum_m exp(-|j - m| / e).

    As published the divisor belongs to the column j, so rows don't sum to one.

    Args:
      mask_MxT: 1 for real snippets, 0 for padding.

    Returns:
      A [M, T, T], over real snippets.
    """
    places_T = jnp.arange(mask_MxT.shape[1])
    near_TxT = jnp.exp(-jnp.abs(places_T[:, None] - places_T) / math.e)
    sums_MxT = mask_MxT @ near_TxT
    return near_TxT * (mask_MxT / jnp.where(sums_MxT > 0, sums_MxT, 1.0))[:, None, :]


def attend_whole(
    q_MxHxTxC: jax.Array,
    k_MxHxTxC: jax.Array,
    v_MxHxTxC: jax.Array,
    t_MxHxTxC: jax.Array,
    mask_MxT: jax.Array,
) -> jax.Array:
    """Attends with all queries at once, which takes memory for T x T weights of each head.

    Args:
      q_MxHxTxC, k_MxHxTxC, v_MxHxTxC: queries, keys and values of M sequences and H heads.
      t_MxHxTxC: values of the attention by distance.
      mask_MxT: 1 for real snippets, 0 for padding.

    Returns:
      Self-attention and attention by distance, concatenated: [M, H, T, 2C].
    """
    attended_MxHxTxC = _weights(q_MxHxTxC, k_MxHxTxC, mask_MxT) @ v_MxHxTxC
    near_MxTxT = nearness(mask_MxT).astype(t_MxHxTxC.dtype)
    return jnp.concatenate([attended_MxHxTxC, near_MxTxT[:, None] @ t_MxHxTxC], axis=-1)


def attend_in_blocks(
    q_MxHxTxC: jax.Array,
    k_MxHxTxC: jax.Array,
    v_MxHxTxC: jax.Array,
    t_MxHxTxC: jax.Array,
    mask_MxT: jax.Array,
) -> jax.Array:
    """The same as attend_whole in memory that grows with T alone, up to rounding.

    Sequences are taken one at a time, and their queries in blocks. The attention by distance looks
    no farther than REACH. The backward pass computes each block's weights again.
    """
    length = q_MxHxTxC.shape[2]
    num_blocks = -(-length // BLOCK)
    offsets_QxW = jnp.arange(BLOCK)[:, None] + REACH - jnp.arange(BLOCK + 2 * REACH)
    near_QxW = jnp.exp(-jnp.abs(offsets_QxW) / math.e)

    def around(x_TxC: jax.Array, start: jax.Array) -> jax.Array:
        """The rows that a block's queries can reach, of rows padded by REACH on either side."""
        return jax.lax.dynamic_slice_in_dim(x_TxC, start, BLOCK + 2 * REACH, axis=-2)

    def sequence(parts: tuple[jax.Array, ...]) -> jax.Array:
        q_HxTxC, k_HxTxC, v_HxTxC, t_HxTxC, mask_T = parts
        end = num_blocks * BLOCK - length
        starts = jnp.arange(num_blocks) * BLOCK
        q_HxTxC = jnp.pad(q_HxTxC, ((0, 0), (0, end), (0, 0)))
        margin = (REACH, REACH + end)
        real_Tx1 = jnp.pad(mask_T, margin)[:, None]
        sums_T = jax.lax.map(lambda start: near_QxW @ around(real_Tx1, start), starts)
        sums_T = sums_T.reshape(-1)[:length]
        shares_T = mask_T / jnp.where(sums_T > 0, sums_T, 1.0)
        shares_Tx1 = jnp.pad(shares_T, margin)[:, None]
        t_HxTxC = jnp.pad(t_HxTxC, ((0, 0), margin, (0, 0)))

        @jax.checkpoint
        def block(start: jax.Array) -> jax.Array:
            q_HxQxC = jax.lax.dynamic_slice_in_dim(q_HxTxC, start, BLOCK, axis=1)
            attended_HxQxC = _weights(q_HxQxC, k_HxTxC, mask_T) @ v_HxTxC
            weights_QxW = (near_QxW * around(shares_Tx1, start).T).astype(t_HxTxC.dtype)
            return jnp.concatenate([attended_HxQxC, weights_QxW @ around(t_HxTxC, start)], axis=-1)

        both_HxTxC = jnp.moveaxis(jax.lax.map(block, starts), 0, 1)
        return both_HxTxC.reshape(len(both_HxTxC), -1, both_HxTxC.shape[-1])[:, :length]

    return jax.lax.map(sequence, (q_MxHxTxC, k_MxHxTxC, v_MxHxTxC, t_MxHxTxC, mask_MxT))


def _weights(q_xHxQxC: jax.Array, k_xHxTxC: jax.Array, mask_xT: jax.Array) -> jax.Array:
    """The weights of self-attention [..., H, Q, T], computed in float32 at least."""
    logits_xHxQxT = q_xHxQxC @ k_xHxTxC.swapaxes(-1, -2) / math.sqrt(q_xHxQxC.shape[-1])
    return _softmax(logits_xHxQxT, mask_xT[..., None, None, :])


def _softmax(logits_xK: jax.Array, seen_xK: jax.Array) -> jax.Array:
    # With minus infinity, a video of nothing but padding would become NaN.
    logits_xK = jnp.where(seen_xK > 0, logits_xK, -1e30)
    exact = jnp.promote_types(logits_xK.dtype, jnp.float32)
    return nn.softmax(logits_xK.astype(exact)).astype(logits_xK.dtype)


def attend_to_past(
    q_MxHxTxC: jax.Array,
    k_MxHxTxC: jax.Array,
    v_MxHxTxC: jax.Array,
    t_MxHxTxC: jax.Array,
    mask_MxT: jax.Array,
    band: int,
) -> jax.Array:
    """Attends to the last `band` snippets alone; see attend_whole and causal.attend.

    The attention by distance is normalised by rows: the published divisor of a column adds up what
    later snippets make of it.
    """

    def block(
        q_xQxC: jax.Array, keys: Sequence[jax.Array], seen_xQxK: jax.Array, ages_QxK: jax.Array
    ) -> jax.Array:
        k_xKxC, v_xKxC, t_xKxC = keys
        logits_xQxK = q_xQxC @ k_xKxC.swapaxes(-1, -2) / math.sqrt(q_xQxC.shape[-1])
        attended_xQxC = _softmax(logits_xQxK, seen_xQxK) @ v_xKxC
        near_xQxK = jnp.exp(-jnp.maximum(ages_QxK, 0) / math.e) * seen_xQxK
        sums_xQx1 = jnp.sum(near_xQxK, axis=-1, keepdims=True)
        near_xQxK = near_xQxK / jnp.where(sums_xQx1 > 0, sums_xQx1, 1.0)
        return jnp.concatenate([attended_xQxC, near_xQxK.astype(t_xKxC.dtype) @ t_xKxC], axis=-1)

    keys = (k_MxHxTxC, v_MxHxTxC, t_MxHxTxC)
    return causal.attend(q_MxHxTxC, keys, mask_MxT[:, None], band, block)


class Attention(nn.Module):
    """Self-attention and fixed attention by distance, concatenated within each head.

    Attributes:
      heads: number of heads.
      channels: channels of each head.
      width: channels of the output.
      band: how many snippets each one attends to, itself and the last ones; 0 for all.
    """

    heads: int
    channels: int
    width: int
    band: int = 0

    @nn.compact
    def __call__(self, x_MxTxC: jax.Array, mask_MxT: jax.Array) -> jax.Array:
        M, T, _ = x_MxTxC.shape
        parts = dense(4 * self.heads * self.channels, "to_qkvt", bias=False)(x_MxTxC)
        q, k, v, t = jnp.moveaxis(parts.reshape(M, T, 4, self.heads, self.channels), (2, 3), (0, 2))
        if self.band:
            both_MxHxTxC = attend_to_past(q, k, v, t, mask_MxT, self.band)
        else:
            attend = attend_in_blocks if longer(T, LONG) else attend_whole
            both_MxHxTxC = attend(q, k, v, t, mask_MxT)
        return dense(self.width, "to_out")(both_MxHxTxC.swapaxes(1, 2).reshape(M, T, -1))


class Body(nn.Module):
    """Convolution, then layers of x + attention(LN x) and x + MLP(LN x).

    With a causal window both see the past only; see causal.py.
    """

    config: TrainConfig

    @nn.compact
    def __call__(
        self, x_VxNxTxD: jax.Array, mask_VxT: jax.Array, noise: Noise | None, train: bool
    ) -> jax.Array:
        config, (V, N, T, D) = self.config, x_VxNxTxD.shape
        width, rate = config.body_width, RATE if config.dropout else 0.0
        channels = config.head_channels or max(1, width // config.heads)
        mask_MxT = jnp.repeat(mask_VxT, N, axis=0)

        def drop(x_MxTxC: jax.Array, layer: int) -> jax.Array:
            x_VxNxTxC = x_MxTxC.reshape(V, N, T, -1)
            return dropout(x_VxNxTxC, noise, rate, layer).reshape(x_MxTxC.shape)

        def norm(name: str) -> nn.Module:
            return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)

        x = x_VxNxTxD.reshape(V * N, T, D)
        taps, past, padding = 3, 0, "SAME"
        if window := config.causal_window:
            taps, padding = causal.taps(3, window - 1), "CAUSAL"
            past = window - taps
            if train:
                x, mask_MxT = causal.fold(x, window), causal.fold(mask_MxT, window)
        # A mask of another precision would promote everything after it.
        x = x * mask_MxT[..., None].astype(x_VxNxTxD.dtype)
        conv = nn.Conv(width, (taps,), padding=padding, kernel_init=xavier, name="conv")
        x = nn.relu(conv(x))
        for i in range(LAYERS):
            # The layers share the past, because what they look back adds up.
            band = (past + i) // LAYERS + 1 if window else 0
            attention = Attention(config.heads, channels, width, band, name=f"attention_{i}")
            attended = attention(norm(f"attention_{i}_norm")(x), mask_MxT)
            x = x + drop(attended, 10 * i)
            y = dense(width, f"mlp_{i}_in")(norm(f"mlp_{i}_norm")(x))
            y = drop(nn.gelu(y, approximate=False), 10 * i + 1)
            x = x + drop(dense(width, f"mlp_{i}_out")(y), 10 * i + 2)
        return x.reshape(V, N, T, width)


class Memory(nn.Module):
    """A memory of learned patterns: attention to them, and the mixture that it reads.

    Attributes:
      rows: number of patterns.
    """

    rows: int

    @nn.compact
    def __call__(self, x_VxNxTxC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reads the memory for each snippet.

        Returns:
          (attention_VxNxT, augmented_VxNxTxC): the mean of the rows // 16 + 1 highest attentions,
          and the patterns weighted by attention.
        """
        width = x_VxNxTxC.shape[-1]

        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0) / math.sqrt(width)

        memory_RxC = self.param("rows", init, (self.rows, width))
        attention_VxNxTxR = nn.sigmoid(x_VxNxTxC @ memory_RxC.T / math.sqrt(width))
        highest = jax.lax.top_k(attention_VxNxTxR, self.rows // 16 + 1)[0]
        return jnp.mean(highest, axis=-1), attention_VxNxTxR @ memory_RxC


class Detector(nn.Module):
    """Body, two memories, latent normality and scoring head. Text is ignored.

    Attributes:
      config: the run's settings; `body_width`, `heads`, `head_channels`, `memory_rows` and
        `head_widths` give the sizes.
      axis_name: unused, because there is no BatchNorm.
    """

    config: TrainConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        visual_VxNxTxD: jax.Array,
        text_VxTxE: jax.Array | None = None,
        mask_VxT: jax.Array | None = None,
        *,
        noise: Noise | None = None,
        train: bool = False,
        generated_V: jax.Array | None = None,
    ) -> Outputs:
        """Scores V videos; while training they are pairs, normal before abnormal."""
        del text_VxTxE, generated_V
        chex.assert_rank(visual_VxNxTxD, 4)
        V, _, T, _ = visual_VxNxTxD.shape
        width = self.config.body_width
        mask_VxT = jnp.ones((V, T)) if mask_VxT is None else mask_VxT
        x = Body(self.config, name="body")(visual_VxNxTxD, mask_VxT, noise, train)
        abnormal_VxNxT, augmented_A = Memory(self.config.memory_rows, name="abnormal_memory")(x)
        normal_VxNxT, augmented_N = Memory(self.config.memory_rows, name="normal_memory")(x)
        mu = dense(width, "mu")
        mu_A, mu_N = mu(augmented_A), mu(augmented_N)
        # Only a normal video's normality is uncertain. Scoring doesn't use it.
        var_normal = dense(width, "var")(augmented_N[0::2])
        latent_N = _sample_normal(mu_N, var_normal, noise) if train and noise is not None else mu_N
        features = jnp.concatenate([x, mu_A + latent_N], axis=-1)
        y = features
        for i, size in enumerate(self.config.head_widths or (128,), start=1):
            y = nn.relu(dense(size, f"fc{i}")(y))
        logits = dense(1, "score")(y)[..., 0]
        return Outputs(
            scores_VxT=jnp.mean(probability(logits), axis=1),
            features_VxNxTxD=features,
            extra={
                "body": x,
                "abnormal_attention": abnormal_VxNxT,
                "normal_attention": normal_VxNxT,
                "mu_abnormal": mu_A,
                "mu_normal": mu_N,
                "var_normal": var_normal,
                "latent_normal": latent_N,
            },
        )


def _sample_normal(mu_VxNxTxC: jax.Array, var_BxNxTxC: jax.Array, noise: Noise) -> jax.Array:
    """Samples the normal video of each pair around `mu`; the abnormal one's `mu` stays."""
    mu_Bx2xNxTxC = mu_VxNxTxC.reshape(-1, 2, *mu_VxNxTxC.shape[1:])
    normal_noise = noise.replace(videos_V=noise.videos_V[0::2])
    noise_BxNxTxC = gaussian(var_BxNxTxC.shape, normal_noise, layer=100)
    spread_BxNxTxC = noise_BxNxTxC.astype(var_BxNxTxC.dtype) * jnp.exp(var_BxNxTxC / 2)
    sample_BxNxTxC = mu_Bx2xNxTxC[:, 0] + spread_BxNxTxC
    return jnp.stack([sample_BxNxTxC, mu_Bx2xNxTxC[:, 1]], axis=1).reshape(mu_VxNxTxC.shape)


def loss_terms(
    outputs: Outputs,
    text_VxTxE: jax.Array | None,
    bank_KxE: jax.Array | None,
    config: TrainConfig,
) -> dict[str, losses.Term]:
    """UR-DMU's loss on B pairs; videos are in the order normal 0, abnormal 0, normal 1, ...

    Each crop of a video is a sample of its own, except in the term `bag`, whose scores are means
    over crops. See rtfm.loss_terms for the arguments.

    Returns:
      Terms `bag`; `abnormal_seen` and `normal_seen` (each half through its own memory) and
      `abnormal_unseen` and `normal_unseen` (through the other); `triplet`, `kl`, `distance`.
    """
    del text_VxTxE, bank_KxE
    chex.assert_rank(outputs.scores_VxT, 2)
    both = {name: value for name, value in outputs.extra.items() if name != "var_normal"}
    normal = {name: value[0::2] for name, value in both.items()}
    abnormal = {name: value[1::2] for name, value in both.items()}
    videos_V = jnp.arange(len(outputs.scores_VxT))
    pairs_Bx2 = videos_V.reshape(-1, 2)

    labels_V = (videos_V % 2).astype(jnp.float32)

    def term(
        loss: Callable[..., jax.Array], weight: float, videos_BxJ: jax.Array, *arguments: Any
    ) -> losses.Term:
        """Builds a term with one value for each crop of each video or pair."""
        values_BxN = jax.vmap(jax.vmap(loss))(*arguments)
        videos_MxJ = jnp.repeat(videos_BxJ, values_BxN.shape[1], axis=0)
        return losses.Term(values_M=values_BxN.reshape(-1), videos_MxJ=videos_MxJ, weight=weight)

    def attention_term(
        loss: Callable[[jax.Array], jax.Array], half: Mapping[str, jax.Array], memory: str
    ) -> losses.Term:
        videos_Bx1 = pairs_Bx2[:, :1] if half is normal else pairs_Bx2[:, 1:]
        return term(loss, ATTENTION_WEIGHT, videos_Bx1, half[f"{memory}_attention"])

    def distance(normal: Mapping[str, jax.Array], abnormal: Mapping[str, jax.Array]) -> jax.Array:
        return _distance(normal, abnormal, config.margin)

    return {
        "bag": losses.Term(
            values_M=jax.vmap(losses.attention_loss)(outputs.scores_VxT, labels_V),
            videos_MxJ=videos_V[:, None],
            weight=1.0,
        ),
        "abnormal_seen": attention_term(_highest_are_one, abnormal, "abnormal"),
        "abnormal_unseen": attention_term(_lowest_are_zero, abnormal, "normal"),
        "normal_seen": attention_term(_all_are_one, normal, "normal"),
        "normal_unseen": attention_term(_all_are_zero, normal, "abnormal"),
        "triplet": term(_triplet, TRIPLET_WEIGHT, pairs_Bx2, normal, abnormal),
        "kl": term(
            losses.kl_loss, KL_WEIGHT, pairs_Bx2[:, :1], normal["mu_normal"],
            outputs.extra["var_normal"],
        ),
        "distance": term(distance, DISTANCE_WEIGHT, pairs_Bx2, normal, abnormal),
    }  # fmt: skip


def _highest_are_one(attention_T: jax.Array) -> jax.Array:
    return losses.attention_loss(attention_T, jnp.ones(()))


def _lowest_are_zero(attention_T: jax.Array) -> jax.Array:
    return losses.attention_loss(1.0 - attention_T, jnp.ones(()))


def _all_are_one(attention_T: jax.Array) -> jax.Array:
    return losses.pseudo_anomaly_loss(attention_T, jnp.ones_like(attention_T))


def _all_are_zero(attention_T: jax.Array) -> jax.Array:
    return losses.pseudo_anomaly_loss(attention_T, jnp.zeros_like(attention_T))


def _select(rows_TxC: jax.Array, attention_T: jax.Array) -> jax.Array:
    """Selects the rows at the T // 16 + 1 highest attentions, [k, C]."""
    count = len(attention_T) // 16 + 1
    return rows_TxC[jax.lax.top_k(jax.lax.stop_gradient(attention_T), count)[1]]


def _triplet(normal: Mapping[str, jax.Array], abnormal: Mapping[str, jax.Array]) -> jax.Array:
    """Triplet loss of one crop of one pair.

    What looks normal in either video should be near each other, what looks abnormal far away.
    """

    def unit(rows_TxC: jax.Array, attention_T: jax.Array) -> jax.Array:
        mean_C = jnp.mean(_select(rows_TxC, attention_T), axis=0)
        return mean_C / jnp.maximum(losses.norm(mean_C), 1e-12)

    return losses.triplet_loss(
        unit(normal["body"], normal["normal_attention"]),
        unit(abnormal["body"], abnormal["normal_attention"]),
        unit(abnormal["body"], abnormal["abnormal_attention"]),
    )


def _distance(
    normal: Mapping[str, jax.Array], abnormal: Mapping[str, jax.Array], margin: float
) -> jax.Array:
    """Distance loss of one crop of one pair, in the latent space."""
    return losses.distance_loss(
        _select(normal["latent_normal"], normal["normal_attention"]),
        _select(abnormal["mu_abnormal"], abnormal["abnormal_attention"]),
        margin,
    )
