"""Windows of consecutive snippets from training videos, for `--causal_window`.

A video's label holds for the whole video, so one window of an abnormal video may hold nothing
abnormal. Therefore a step sees several windows of each video, each from a part of its own of the
video, and the bag is all of them: as many snippets as there would be segments.
"""

from collections.abc import Sequence

import numpy as np

from gvvad_jax.config import TrainConfig
from gvvad_jax.segments import ReadKind
from gvvad_jax.splits import Member
from gvvad_jax.standardisation import Standards

# Of the random numbers that draw windows, beside those of batches.py.
_STREAM = 7


def places(length: int, window: int, draws_K: np.ndarray) -> np.ndarray:
    """Returns which snippets of a video K windows hold [K, W].

    The possible starts are divided into K equal parts, and a window starts in each. A video
    shorter than a window keeps its last snippet until the window's end: what sees the past only
    scores the snippets before as without it.

    Args:
      length: the video's number of snippets.
      window: W.
      draws_K: numbers in [0, 1), where in its part each window starts.
    """
    starts = max(1, length - window + 1)
    starts_K = ((np.arange(len(draws_K)) + draws_K) * starts / len(draws_K)).astype(int)
    return np.minimum(starts_K[:, None] + np.arange(window), length - 1)


class Windows:
    """The training videos of a run, as windows that are a pure function of (seed, step).

    They are read from the stores when a step asks for them, so memory depends on the batch alone.

    Args:
      members: the videos.
      standards: standardisation of the visual features.
      config: the run's settings: windows, seed, whether text is used.

    Attributes:
      shapes: shape of one video's features by kind; see segments.Segments.
    """

    def __init__(self, members: Sequence[Member], standards: Standards, config: TrainConfig):
        manifest = members[0].store.manifest
        self._members, self._standards, self._config = members, standards, config
        self.shapes: dict[str, tuple[int, ...]] = {
            "visual": (manifest.crops["count"], config.bag, manifest.dim)
        }
        if config.uses_text and manifest.text:
            self.shapes["text"] = (config.bag, manifest.text["dim"])
        if standards.text:
            self.shapes["stream"] = self.shapes["text"]

    def at(self, step: int, videos_V: np.ndarray) -> ReadKind:
        """Returns what reads the windows of a step's videos, each drawn by its place in the step.

        Args:
          step: number of the step.
          videos_V: the step's videos, of which one may come several times.
        """
        window = self._config.causal_window
        rng = np.random.default_rng([self._config.seed, step, _STREAM])
        draws_VxK = rng.random((len(videos_V), self._config.bag // window))

        def read(kind: str, start: int, stop: int) -> np.ndarray:
            rows = np.empty((stop - start, *self.shapes[kind]), np.float32)
            for place in range(start, stop):
                member = self._members[videos_V[place]]
                chosen_KxW = places(member.row.num_snippets, window, draws_VxK[place])
                rows[place - start] = self._rows(kind, member, chosen_KxW.reshape(-1))
            return rows

        return read

    def _rows(self, kind: str, member: Member, chosen_T: np.ndarray) -> np.ndarray:
        store, video_id = member.store, member.video.id
        if kind == "visual":
            feat_TxNxD = np.asarray(store.visual(video_id)[chosen_T])
            rows = self._standards.of(member).apply(feat_TxNxD).swapaxes(0, 1)
        else:
            text_SxE = store.text(video_id)
            assert text_SxE is not None
            rows = np.asarray(text_SxE[np.minimum(chosen_T, len(text_SxE) - 1)], np.float32)
            if kind == "stream":
                rows = self._standards.text_of(member).apply(rows)
        store.release()
        return rows
