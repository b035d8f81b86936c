"""TEVAD: RTFM with a second stream over captions (Chen et al., CVPRW 2023)."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors import rtfm
from gvvad_jax.detectors.layers import Noise, Outputs, dense, dropout
from gvvad_jax.detectors.mtn import MTN, over_crops

loss_terms = rtfm.loss_terms


def align_length(text_VxSxE: jax.Array, length: int) -> jax.Array:
    """Fits text to the video's length: cuts its end, or appends its last rows once more.

    Args:
      text_VxSxE: S rows of text.
      length: T, the video's number of snippets, at most 2 S.

    Returns:
      Text [V, T, E].
    """
    missing = length - text_VxSxE.shape[1]
    if missing <= 0:
        return text_VxSxE[:, :length]
    return jnp.concatenate([text_VxSxE, text_VxSxE[:, -missing:]], axis=1)


class Detector(nn.Module):
    """A visual and a text stream, each through its own MTN, fused and scored.

    The text stream runs once for each video, because its text is the same for every crop. With
    `config.feature_group` visual or text the other stream is off.

    Attributes:
      config: the run's settings.
      axis_name: the device axis that BatchNorm's statistics are taken over.
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
        """Scores V videos. See layers.batch_norm for `generated_V`."""
        config = self.config
        streams: list[jax.Array] = []
        if config.uses_visual:
            mtn = MTN(config.mtn_channels, self.axis_name, config.causal_window, name="visual")
            visual_VxNxTxD = over_crops(mtn, visual_VxNxTxD, mask_VxT, train, generated_V)
            streams.append(dropout(visual_VxNxTxD, noise, config.dropout, layer=0))
        if config.uses_text:
            assert text_VxTxE is not None
            chex.assert_rank(text_VxTxE, 3)
            num_crops, length = visual_VxNxTxD.shape[1:3]
            text_VxTxE = self._text(text_VxTxE, mask_VxT, length, train, generated_V)
            V, T, E = text_VxTxE.shape
            text_VxNxTxE = jnp.broadcast_to(text_VxTxE[:, None], (V, num_crops, T, E))
            streams.append(dropout(text_VxNxTxE, noise, config.dropout, layer=2))
        fused_VxNxTxD = streams[0]
        if len(streams) == 2:
            fused_VxNxTxD = self._fuse(streams[0], streams[1], noise)
        # With dropout the crops' text differs.
        concatenated = len(streams) == 2 and config.fusion == "concat"
        shared = streams[1].shape[-1] if concatenated and noise is None else 0
        return rtfm.scored(fused_VxNxTxD, config, noise, train, shared)

    def _text(
        self,
        text_VxSxE: jax.Array,
        mask_VxT: jax.Array | None,
        length: int,
        train: bool,
        generated_V: jax.Array | None,
    ) -> jax.Array:
        # Text of another length is scored one video at a time, where nothing is padded.
        mask_VxS = mask_VxT if text_VxSxE.shape[1] == length else None
        config = self.config
        mtn = MTN(config.mtn_channels, self.axis_name, config.causal_window, name="text")
        text_VxSxE = mtn(text_VxSxE, mask_VxS, train=train, generated_M=generated_V)
        return align_length(text_VxSxE, length)

    def _fuse(
        self, visual_VxNxTxD: jax.Array, text_VxNxTxE: jax.Array, noise: Noise | None
    ) -> jax.Array:
        config = self.config

        def projected(x: jax.Array, name: str, features: int, layer: int) -> jax.Array:
            return dropout(nn.relu(dense(features, name)(x)), noise, config.dropout, layer)

        widths = visual_VxNxTxD.shape[-1], text_VxNxTxE.shape[-1]
        if config.fusion == "concat":
            return jnp.concatenate([visual_VxNxTxD, text_VxNxTxE], axis=-1)
        if config.fusion == "add":
            return projected(visual_VxNxTxD, "fc0", widths[1], 3) + text_VxNxTxE
        if config.fusion == "product":
            return projected(visual_VxNxTxD, "fc0", widths[1], 3) * text_VxNxTxE
        visual = projected(visual_VxNxTxD, "fc_vis", sum(widths), 3)
        return visual + projected(text_VxNxTxE, "fc_text", sum(widths), 4)
