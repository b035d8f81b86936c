"""A detector for live sources that nobody trained, and a stream in which something happens."""

import numpy as np

from generation.encode.recipe import Recipe
from generation.encoders.motion import MotionEncoder
from gvvad_jax import events, scoring
from gvvad_jax.config import TrainConfig
from gvvad_jax.standardisation import Standardisation
from tests.support.tiny_videos import moving
from tools.watching.detector import Detector
from tools.watching.features import RunFeatures

FPS = 25
# The frames of `shaken` in which the whole picture jumps.
SHAKEN = 60, 100
# Of the motion encoder's row: speed of the seventeenth-fastest cell, mean over the snippet.
_WIDE_MOTION = 5


class QuickDetector(Detector):
    """Its events end after half a second."""

    rule = events.Rule(threshold=0.5, cool_down=0.5)


def shaken(num_frames=150):
    """Returns frames through which a box moves; for a while the whole picture jumps."""
    frames, rng = moving(num_frames), np.random.default_rng(7)
    for t in range(*SHAKEN):
        frames[t] = np.roll(frames[t], int(rng.integers(4, 12)) * (-1) ** t, axis=1)
    return frames


def make_detector(stride=4, fps_policy="native"):
    """A detector of a picture that jumps as a whole, on the motion encoder's features."""
    recipe = Recipe(
        encoder=MotionEncoder(), snippet_frames=16, snippet_stride=stride, fps_policy=fps_policy
    )
    manifest = recipe.manifest()

    def score_step(variables, visual_BxNxTxD, text, mask_BxT):
        return np.clip(visual_BxNxTxD[..., _WIDE_MOTION].mean(axis=1) / 4, 0, 1) * mask_BxT

    model = scoring.Model(
        config=TrainConfig(detector="mil_rank"),
        manifest=manifest,
        standard=Standardisation(),
        variables={},
        score_step=score_step,
    )
    threshold = events.Threshold(threshold=0.5, alarms_per_hour=None, asked=1.0)
    features = RunFeatures(recipe, manifest)
    return QuickDetector(model, features, threshold, None, "test")
