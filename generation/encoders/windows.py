"""Encoders of published video models: the frames of a snippet to one embedding of each crop."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from generation.encoders.images import CROPS, VisionModel
from generation.encoders.options import VisualOptions
from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import torch


class WindowEncoder(VisionModel):
    """Embeds all frames of a snippet at once: V-JEPA 2, whose tokens are averaged.

    The model takes `tubelet_size` frames a token in time. Where a snippet has another number, as
    the last one of a video may, its last frame is repeated. Attributes are those of VisionModel.

    Args:
      options: see VisionModel; `pooling` is "mean", since frames aren't embedded one by one.

    Raises:
      UserError: see VisionModel, or another pooling.
    """

    def __init__(self, options: VisualOptions):
        if options.pooling != "mean":
            raise UserError(
                f"--pooling: expected mean for --encoder={options.encoder}, found "
                f"{options.pooling!r}; it takes all frames of a snippet at once"
            )
        super().__init__(options)
        self._tubelet = self._config["tubelet_size"]
        self.manifest |= {"pooling": "window"}

    def encode_snippets(self, snippets: "Sequence[Sequence[torch.Tensor]]") -> np.ndarray:
        """Computes the features of snippets of one video.

        Args:
          snippets: the prepared frames of each snippet.

        Returns:
          float32 [len(snippets), crops, dim].
        """
        filled = [[*frames, *frames[-1:] * (-len(frames) % self._tubelet)] for frames in snippets]
        rows = []
        for length, same in itertools.groupby(filled, len):
            windows = list(same)
            at_once = max(1, self._batch_size // (length * self.crops["count"]))
            for start in range(0, len(windows), at_once):
                rows.append(self._embed(windows[start : start + at_once]))
        return self._finite(np.concatenate(rows))

    def _embed(self, windows: "Sequence[Sequence[torch.Tensor]]") -> np.ndarray:
        """Returns float32 [W, crops, dim] of windows of the same number of frames."""
        import torch

        frames = list(itertools.chain(*windows))
        ten = self.crops["count"] == CROPS["ten"][0]
        with torch.inference_mode():
            # Cloned, because each batch overwrites the last one.
            pixels = torch.cat([batch.clone() for batch in self._batches(frames, ten)])
            windows_WxFxNx3xSxS = pixels.unflatten(0, (len(windows), -1))
            clips_WxNxFx3xSxS = windows_WxFxNx3xSxS.transpose(1, 2)
            tokens_xLxD = self._forward(clips_WxNxFx3xSxS.flatten(0, 1))
            rows_WxNxD = tokens_xLxD.float().mean(dim=1).unflatten(0, (len(windows), -1))
        return rows_WxNxD.cpu().numpy()
