"""Draws one test video's anomaly scores over time: the picture of README.md.

    python -m tools.pages.picture --out=docs/images/scores.png

Renders footage with the built-in world, encodes it, trains LAP on labels of whole videos, and draws
the scores of the first abnormal test video (by id) below three of its frames. The true interval is
shaded; training never saw it. Takes about two and a half minutes on two cores.
"""

import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

import gvvad_jax as gv
from gvvad_jax.command import run_command
from gvvad_jax.store import alignment, annotations

# Sizes in pixels; everything is drawn at twice these sizes and then reduced.
_WIDTH, _LEFT, _PLOT, _BOTTOM, _GAP = 760, 34, 140, 28, 8
_INK, _GREY, _SHADE, _CURVE = (40, 40, 40), (190, 190, 190), (252, 222, 218), (31, 90, 170)


def main(_: Sequence[str]) -> None:
    out = pathlib.Path(flags.FLAGS.out)
    with tempfile.TemporaryDirectory() as folder:
        video, fps, scores_F, frames_FxHxWx3 = score_a_video(pathlib.Path(folder))
    intervals = video.abnormal_frames or ()
    draw(scores_F, frames_FxHxWx3, intervals[0], fps).save(out, optimize=True)
    print(f"{out}: {video.id}")


def score_a_video(
    folder: pathlib.Path,
) -> tuple[gv.VideoAnnotation, float, np.ndarray, np.ndarray]:
    """Trains a detector in `folder`; returns a test video, its fps, frame scores and frames."""
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions
    from generation.media import reading
    from generation.videos.world_backend import render_footage

    listed = annotations.load(render_footage(folder / "footage", 26, 4, seed=0))
    encoding.encode(listed.path, folder / "store", EncodeOptions())
    config = gv.TrainConfig(
        store=str(folder / "store"),
        workdir=str(folder / "run"),
        segments=32,
        head_widths=(64, 16),
        mtn_channels=32,
        batch_size=16,
        steps=200,
    )
    gv.fit(config)
    video = min((v for v in listed.in_split("test") if v.label), key=lambda v: v.id)
    store = gv.Store(folder / "store")
    row, scores_T = store.rows[video.id], gv.load(config.workdir).score(store)[video.id]
    scores_F = alignment.frame_scores(scores_T, store.times(video.id), row.num_frames, row.fps)
    return video, row.fps, scores_F, reading.read(listed.resolve(video)).frames_TxHxWx3


def draw(
    scores_F: np.ndarray, frames_FxHxWx3: np.ndarray, interval: tuple[int, int], fps: float
) -> Image.Image:
    """Three frames (before, within and after `interval`) above the score curve."""
    num_frames, (start, end) = len(scores_F), interval
    width = (_WIDTH - _LEFT - 2 * _GAP) // 3
    height = width * frames_FxHxWx3.shape[1] // frames_FxHxWx3.shape[2]
    top = height + 34  # Of the plot.
    image = Image.new("RGB", (2 * _WIDTH, 2 * (top + _PLOT + _BOTTOM)), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(24)

    def x(frame: float) -> float:
        return 2 * (_LEFT + frame / num_frames * (_WIDTH - _LEFT - 1))

    def y(score: float) -> float:
        return 2 * (top + (1 - score) * _PLOT)

    pen.rectangle([x(start), y(1), x(end), y(0)], fill=_SHADE)
    for score in (0, 0.5, 1):
        pen.line([x(0), y(score), x(num_frames), y(score)], fill=_GREY, width=2)
        pen.text((x(0) - 12, y(score)), f"{score:g}", _INK, font, anchor="rm")
    for second in range(0, int(num_frames / fps) + 1, 2):
        pen.text((x(second * fps), y(0) + 10), f"{second} s", _INK, font, anchor="ma")
    points = [(x(frame + 0.5), y(score)) for frame, score in enumerate(scores_F)]
    pen.line(points, fill=_CURVE, width=6, joint="curve")
    shown = [start // 2, (start + end) // 2, (end + num_frames - 1) // 2]
    for place, frame in enumerate(shown):
        picture = Image.fromarray(frames_FxHxWx3[frame]).resize((2 * width, 2 * height))
        left = 2 * (_LEFT + place * (width + _GAP))
        image.paste(picture, (left, 0))
        pen.text((left + width, 2 * height + 8), f"{frame / fps:.1f} s", _INK, font, anchor="ma")
    return image.resize((_WIDTH, image.height // 2), Image.Resampling.LANCZOS).quantize(128)


if __name__ == "__main__":
    flags.DEFINE_string("out", "scores.png", "PNG file to write.")
    run_command(main, usage=__doc__)
