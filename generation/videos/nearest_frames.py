"""First frames that CLIP chooses: the real frame nearest to the place that a description names.

PA-VAD (Hashimoto et al., 2025, arXiv 2512.06845) chooses initial images by CLIP, too. A frame of a
normal video shows a place, seen from somewhere, and no event. So it is compared with a
description's location and viewpoint, which twins share: both start from the same frame.
"""

import os
import pathlib
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from generation.encoders import pretrained
from generation.encoders.families import FAMILIES
from generation.encoders.options import TextOptions, VisualOptions
from generation.prompts.descriptions import Description
from generation.videos.first_frames import FirstFrames, contents, frame_at
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.files import load_arrays, write_arrays

if TYPE_CHECKING:
    from generation.encoders.images import ImageEncoder

# Positions in a video whose frames are compared, from 0 (start) to 1 (end).
PLACES = tuple((2 * number + 1) / 16 for number in range(8))


class NearestFrames(FirstFrames):
    """Gives each description the nearest of all candidate frames by CLIP's cosine.

    Candidates are the frames at PLACES of each normal training video. Of equally near ones, the
    first one by id and place is taken.

    Args:
      path, seed: see FirstFrames.
      weights: CLIP checkpoint with both towers: a Hub name or a folder; "" for the default one.

    Attributes:
      digest: of the eligible videos, and of the checkpoint.
    """

    def __init__(self, path: str | os.PathLike, seed: int, weights: str):
        super().__init__(path, seed)
        self._weights = weights or FAMILIES["clip-l14"].weights
        # A folder is known by its content, a Hub name by itself, since nothing is fetched here.
        known = os.path.isdir(self._weights) and pretrained.known_digest(
            self._weights, pretrained.IMAGES
        )
        self.digest = digests.of_json([self.digest, "clip", known or self._weights])
        self._nearest: dict[str, tuple[str, float]] = {}

    def draw(self, description: Description) -> tuple[str, float]:
        """Returns the id of a video, and a position in it, chosen by `prepare`."""
        return self._nearest[_place_of(description)]

    def prepare(
        self, descriptions: Sequence[Description], folder: str | os.PathLike, device: str
    ) -> None:
        """Chooses frames for descriptions.

        Embeddings of frames are kept in the folder, a file for each video, and used again.

        Args:
          descriptions: the descriptions.
          folder: folder for the embeddings, shared by all ranks.
          device: device of CLIP; "" for a GPU if there is one.

        Raises:
          UserError: CLIP can't be loaded, or no video has a readable frame.
        """
        texts = list(dict.fromkeys(map(_place_of, descriptions)))
        texts = [text for text in texts if text not in self._nearest]
        if not texts:
            return
        ids, rows_NxPxD = self._index(pathlib.Path(folder) / "first_frames", device)
        from generation.encoders import text

        options = TextOptions(text_encoder="clip-l14", text_weights=self._weights, device=device)
        texts_QxD = _unit(text.make_text_encoder(options)(texts))
        cosines_QxNP = texts_QxD @ rows_NxPxD.reshape(-1, rows_NxPxD.shape[-1]).T
        for one, best in zip(texts, cosines_QxNP.argmax(axis=1), strict=True):
            number, place = divmod(int(best), len(PLACES))
            self._nearest[one] = (ids[number], PLACES[place])

    def _index(self, folder: pathlib.Path, device: str) -> tuple[list[str], np.ndarray]:
        """Returns ids of readable videos, and unit embeddings [N, places, D] of their frames."""
        from generation.encoders.visual import make_encoder

        encoder = make_encoder(
            VisualOptions(encoder="clip-l14", weights=self._weights, device=device)
        )
        rows_by_id: dict[str, np.ndarray] = {}
        for video in self._videos:
            path = self._annotated.resolve(video)
            key = digests.of_json([contents(path), encoder.manifest["digest"], PLACES])
            kept = folder / f"{key}.npz"
            rows_PxD = _read(kept)
            if rows_PxD is None:
                rows_PxD = _embedded(encoder, video, path)
                if rows_PxD is None:
                    continue
                folder.mkdir(parents=True, exist_ok=True)
                write_arrays(kept, {"rows": rows_PxD})
            rows_by_id[video.id] = rows_PxD
        if not rows_by_id:
            raise UserError(
                "--first_frames: expected normal training videos with readable frames, found "
                "none; the reasons stand above"
            )
        return list(rows_by_id), np.stack(list(rows_by_id.values()))


def _read(path: pathlib.Path) -> np.ndarray | None:
    """Returns what an earlier run kept; None if there is nothing, or it is damaged."""
    try:
        return load_arrays(path, "embeddings of frames")["rows"] if path.exists() else None
    except (UserError, KeyError):
        return None


def _embedded(
    encoder: "ImageEncoder", video: annotations.VideoAnnotation, path: pathlib.Path
) -> np.ndarray | None:
    """Returns unit embeddings [places, D] of a video's frames; None if it has none."""
    try:
        frames = [np.array(frame_at(path, place)) for place in PLACES]
    except UserError as error:
        print(f"{video.id}: gives no first frame: {error}", file=sys.stderr)
        return None
    pictures = [types.SimpleNamespace(rgb=lambda frame=frame: frame) for frame in frames]
    snippets = [[encoder.prepare(picture)] for picture in pictures]
    return _unit(encoder.encode_snippets(snippets)[:, 0])


def _place_of(description: Description) -> str:
    return f"{description.location}, {description.viewpoint}"


def _unit(rows_xD: np.ndarray) -> np.ndarray:
    return rows_xD / np.linalg.norm(rows_xD, axis=-1, keepdims=True)
