"""The built-in world as a backend, and as a stand-in for footage of real cameras."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from generation.prompts.descriptions import Description
from generation.prompts.grammar import write_grammar
from generation.videos.backends import GeneratedVideo
from generation.videos.generating import generate
from generation.world import render
from gvvad_jax.command import UserError


class WorldBackend:
    """The built-in renderer.

    Args:
      options: domain, seed and size.
      defect_share: fraction of generated videos that are broken; footage never is.
    """

    batch_size = 1

    def __init__(
        self,
        options: render.WorldOptions | None = None,
        defect_share: float = render.DEFECT_SHARE,
    ):
        self.options = options or render.WorldOptions()
        self.defect_share = defect_share if self.options.domain == "generated" else 0.0
        self.settings = dataclasses.asdict(self.options) | {
            "backend": "world",
            "world_version": render.WORLD_VERSION,
            "defect_share": self.defect_share,
        }

    def examine(
        self,
        descriptions: Sequence[Description],
        recorded: Mapping[str, Any] | None,
        is_complete: bool,
    ) -> None:
        """Does nothing: the world has neither weights nor a tokenizer."""

    def prepare(
        self,
        descriptions: Sequence[Description],
        folder: pathlib.Path,
        recorded: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Does nothing: the world has no weights."""
        return {}

    def __call__(self, descriptions: Sequence[Description]) -> list[GeneratedVideo | Exception]:
        """Renders a video of each description."""
        return [self._render(description) for description in descriptions]

    def _render(self, description: Description) -> GeneratedVideo:
        defect = render.draw_defect(description, self.options.seed, self.defect_share)
        rendering = render.render(description, self.options, defect)
        is_footage = self.options.domain == "footage"
        truth = {"defect": rendering.defect, "shown_frames": rendering.abnormal_frames}
        return GeneratedVideo(
            rendering.frames_TxHxWx3,
            rendering.fps,
            render.CRF[self.options.domain],
            # A real generator does not say when its event happens, so only the truth file does.
            rendering.abnormal_frames if is_footage else None,
            truth,
        )


def render_footage(
    out: str | os.PathLike,
    num_train_pairs: int,
    num_test_pairs: int,
    seed: int,
    *,
    train_abnormal: int | None = None,
    progress: bool = True,
) -> pathlib.Path:
    """Renders a stand-in for real data: twins of footage with splits and exact intervals.

    Classes take turns, so they are balanced in both splits. No place is in both splits.

    Args:
      out: the folder; see `generate`.
      num_train_pairs, num_test_pairs: number of pairs of a normal and an abnormal video.
      seed: random seed.
      train_abnormal: render only so many of the training pairs' abnormal videos, drawn at random
        (default: all).
      progress: whether to show a progress bar on standard error.

    Returns:
      The path of videos.json.
    """
    twins = write_grammar(num_train_pairs + num_test_pairs, seed)
    descriptions = [
        msgspec.structs.replace(twin, id=f"footage-{twin.id}", twin=f"footage-{twin.twin}")
        for twin in twins
    ]
    split = {
        description.id: "train" if index < 2 * num_train_pairs else "test"
        for index, description in enumerate(descriptions)
    }
    if train_abnormal is not None:
        abnormal = [d.id for d in descriptions if d.label and split[d.id] == "train"]
        drawn = np.random.default_rng([seed, 5]).permutation(abnormal)[:train_abnormal]
        left_out = set(abnormal) - set(drawn.tolist())
        descriptions = [d for d in descriptions if d.id not in left_out]
    backend = WorldBackend(render.WorldOptions(domain="footage", seed=seed))
    return generate(descriptions, backend, out, split=split, progress=progress)


def frame_size(height: int | None, width: int | None) -> tuple[int, int] | None:
    """Returns `WorldOptions.size` for --height and --width.

    Raises:
      UserError: only one of the two is given, or one is odd.
    """
    if (height is None) != (width is None):
        given, other = ("height", "width") if width is None else ("width", "height")
        raise UserError(
            f"--{given}: expected --{other} too for the world, found none; give both or neither"
        )
    if height is None:
        return None
    if height % 2 or width % 2:
        raise UserError(
            f"--height, --width: expected even numbers, which H.264 needs, found {height} and "
            f"{width}; round them"
        )
    return height, width
