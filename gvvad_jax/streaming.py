"""Scores snippets as they arrive, with constant memory and constant work for each."""

import numpy as np

from gvvad_jax.checked_features import require_text, require_visual
from gvvad_jax.command import UserError
from gvvad_jax.scoring import Model, require_finite


class ScoreStream:
    """Scores the newest snippet of a video that has no end, by the snippets in a window.

    The last `window` snippets are scored as if they were a whole video, and the score of the newest
    is kept. Before there are so many, the missing ones are masked, so the first snippet already
    has a score, and one program is compiled for all. For a run of `--causal_window=W` whose window
    is W, these are the scores of the whole video, up to rounding. For other runs they differ, as
    docs/streaming.md measures: a whole video's scores look at what comes later, too.

    Args:
      model: the detector.
      window: number of snippets that a score looks at (default: the run's causal window).

    Attributes:
      window: the same.
      count: snippets pushed since the start or the last `reset`.

    Raises:
      UserError: a window below 1, or none for a run that has no causal window.
    """

    def __init__(self, model: Model, window: int | None = None):
        window = model.config.causal_window if window is None else window
        if window < 1:
            raise UserError(
                f"window: expected at least 1 snippet, found {window}; this run was trained on "
                "whole videos, so choose how many snippets a score looks at"
            )
        self.window, self.count = window, 0
        self._model = model
        self._rows: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """Forgets all snippets, as where a source has restarted."""
        self.count = 0

    def push(self, visual_NxD: np.ndarray, text_E: np.ndarray | None = None) -> float:
        """Scores the snippet that follows the last one.

        Args:
          visual_NxD: its visual features of N crops, or [D] of one, as the encoder gives them.
          text_E: its text features, for a detector with a text stream.

        Returns:
          The score in [0, 1]; higher is more abnormal.

        Raises:
          UserError: features of another shape than the detector takes, text that is missing, or
            values that aren't finite.
        """
        model, where = self._model, f"snippet {self.count}"
        visual_1xNxD = require_visual(np.asarray(visual_NxD)[None], model.manifest, where)
        row = {"visual": model.standard.apply(visual_1xNxD)[0]}
        if model.config.uses_text:
            text_1xE = None if text_E is None else np.asarray(text_E)[None]
            row["text"] = require_text(text_1xE, 1, model.manifest, where)[0]
        place = min(self.count, self.window - 1)
        for kind, value_x in row.items():
            rows_Wx = self._rows.get(kind)
            if rows_Wx is None:
                rows_Wx = self._rows[kind] = np.zeros((self.window, *value_x.shape), np.float32)
            elif value_x.shape != rows_Wx.shape[1:]:
                raise UserError(
                    f"{where}: expected {rows_Wx.shape[1]} crops as in the snippets before, found "
                    f"{len(value_x)}; give a stream the crops of one encoder"
                )
            if self.count >= self.window:
                rows_Wx[:-1] = rows_Wx[1:]
            rows_Wx[place] = value_x
        mask_1xW = (np.arange(self.window) <= place).astype(np.float32)[None]
        text_WxE = self._rows.get("text")
        scores_1xW = model.score_step(
            model.variables,
            # JAX may use these arrays in place, and the next snippet moves them.
            self._rows["visual"].swapaxes(0, 1)[None].copy(),
            None if text_WxE is None else text_WxE[None].copy(),
            mask_1xW,
        )
        self.count += 1
        score_1 = np.asarray(scores_1xW)[0, place : place + 1]
        require_finite({where: score_1}, "stream")
        return float(score_1[0])
