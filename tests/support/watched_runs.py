"""Runs that nobody trained, as training leaves them, and videos in which something moves."""

import jax
import numpy as np

from generation.encode.recipe import EncodeOptions
from generation.media.writing import write_video
from gvvad_jax import step
from gvvad_jax.calibration import Calibration, Calibrations
from gvvad_jax.config import TrainConfig
from gvvad_jax.events import Threshold
from gvvad_jax.run import checkpoints

FPS = 10


def write_run(folder, *, threshold=0.5, manifest=None, detector="mil_rank", **options):
    """A run on features of `options`; MIL-Rank's scores rise with the fastest cell's speed."""
    encode = EncodeOptions(**({"captioner": "none", "snippet_frames": 8} | options))
    manifest = manifest or encode.recipe().manifest()
    group = "both" if manifest.text and detector != "mil_rank" else "visual"
    config = TrainConfig(
        store=str(folder / "gone"), workdir=str(folder), detector=detector, feature_group=group,
        head_widths=(4, 2), mtn_channels=4,
    )  # fmt: skip
    state = step.init_state(config, manifest.dim, manifest.text["dim"] if manifest.text else 0)
    if detector == "mil_rank":
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state.params)
        for layer, weight, bias in (("fc1", 1.0, -2.0), ("fc2", 1.0, 0.0), ("fc3", 2.0, -2.0)):
            params["detector"][layer]["kernel"][0, 0] = weight
            params["detector"][layer]["bias"][0] = bias
        state = state.replace(params=params)
    folder.mkdir(parents=True)
    saved = checkpoints.Checkpoints(folder)
    saved.save("last", 1, state, [None])
    saved.close()
    found = Threshold(threshold=threshold, alarms_per_hour=2.0, asked=1.0, hours=1.5, videos=3)
    if threshold is None:
        found = Threshold(threshold=None, alarms_per_hour=None, asked=1.0, reason="no footage")
    known = Calibration(step=1, temperature=None, temperature_reason="none", threshold=found)
    checkpoints.write_model(folder, config, manifest, None, Calibrations({"last": known}, {}))
    return folder


def scene(seconds=12, moves=(4, 7), height=64, width=96, seed=0):
    """A still place with camera noise; a box runs to and fro low at the right during `moves`."""
    rng = np.random.default_rng(seed)
    place = np.kron(rng.integers(60, 190, (-(-height // 8), -(-width // 8), 1)), np.ones((8, 8, 3)))
    place = place[:height, :width]
    for t in range(int(seconds * FPS)):
        frame = place + rng.normal(0, 1.5, (height, width, 1))
        if moves and moves[0] * FPS <= t < moves[1] * FPS:
            left = width - 32 + (6 * t) % 16
            frame[height - 16 :, left : left + 12] = (240, 240, 20)
        yield frame.clip(0, 255).astype(np.uint8)


def write_scene(path, **settings):
    """Writes a scene as H.264."""
    write_video(path, scene(**settings), fps=FPS)
    return path
