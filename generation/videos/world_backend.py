"""The built-in world as a backend of generation.videos, and as footage of real cameras."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from generation.prompts.descriptions import Description
from generation.prompts.grammar import write_grammar
from generation.videos.backends import GeneratedVideo
from generation.videos.generating import generate
from generation.world import render


class WorldBackend:
    """The built-in renderer; see generation/world.py.

    Args:
      domain: footage or generated.
      seed: of the whole set.
      domain_gap: of generated clips, 0 looks like footage.
      defect_share: of generated clips that are broken; footage never is.
      num_frames, fps, size: the domain's unless told.
    """

    batch_size = 1

    def __init__(
        self,
        domain: str = "generated",
        *,
        seed: int = 0,
        domain_gap: float = 1.0,
        defect_share: float = render.DEFECT_SHARE,
        num_frames: int | None = None,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
    ):
        self.defect_share = defect_share if domain == "generated" else 0.0
        self.options = {
            "domain": domain,
            "seed": seed,
            "domain_gap": domain_gap,
            "num_frames": num_frames,
            "fps": fps,
            "size": size,
        }
        self.settings = self.options | {
            "backend": "world",
            "world_version": render.WORLD_VERSION,
            "defect_share": self.defect_share,
        }

    def prepare(
        self,
        descriptions: Sequence[Description],
        folder: pathlib.Path,
        begun: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        return {}

    def __call__(self, descriptions: Sequence[Description]) -> list[GeneratedVideo | Exception]:
        return [self._render(description) for description in descriptions]

    def _render(self, description: Description) -> GeneratedVideo:
        seed = self.options["seed"]
        defect = render.draw_defect(description, seed, self.defect_share)
        rendering = render.render(description, defect=defect, **self.options)
        footage = self.options["domain"] == "footage"
        truth = {"defect": rendering.defect, "shown_frames": rendering.abnormal_frames}
        return GeneratedVideo(
            rendering.frames_TxHxWx3,
            rendering.fps,
            render.CRF[self.options["domain"]],
            # A generator doesn't tell when its event happens: that is for the truth file.
            rendering.abnormal_frames if footage else None,
            truth,
        )


def render_footage(
    out: str | os.PathLike,
    num_train_pairs: int,
    num_test_pairs: int,
    seed: int,
    *,
    progress: bool = True,
) -> pathlib.Path:
    """The world's stand-in for real data: twins of footage with splits and exact intervals.

    Classes take turns, so both splits hold them evenly; no place is in both.

    Args:
      out: folder, as for `generate`.
      num_train_pairs, num_test_pairs: pairs of a normal and an abnormal video.
      seed: of everything.
      progress: a bar on standard error.

    Returns:
      The path of videos.json.
    """
    twins = write_grammar(num_train_pairs + num_test_pairs, seed)
    descriptions = [
        dataclasses.replace(twin, id=f"footage-{twin.id}", twin=f"footage-{twin.twin}")
        for twin in twins
    ]
    split = {
        description.id: "train" if index < 2 * num_train_pairs else "test"
        for index, description in enumerate(descriptions)
    }
    backend = WorldBackend("footage", seed=seed)
    return generate(descriptions, backend, out, split=split, progress=progress)
