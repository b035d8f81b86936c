"""The motion encoder's features on hand-made videos, and encoders by name."""

import subprocess
import sys

import numpy as np
import pytest

from generation.encoders import pretrained
from generation.encoders.motion import MotionEncoder
from generation.encoders.options import VisualOptions
from generation.encoders.visual import make_encoder
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment
from tests.support import streaming
from tests.support.textures import moving

RANKS, NUM_MOTION = 6, 6
SPEED_P99, SPEED_MEAN, AS_ONE = 0, 1, 2


def encode(frames, fps=10.0, snippet=(8, 4)):
    spans = alignment.snippet_spans(len(frames), *snippet)
    return streaming.encode(MotionEncoder(), frames, spans, fps)[:, 0]


def ranked(feat_TxD, statistic):
    return feat_TxD[:, statistic * RANKS : (statistic + 1) * RANKS]


def test_shape_and_manifest():
    encoder = make_encoder(VisualOptions())
    spans = alignment.snippet_spans(9, 8, 4)
    feat = streaming.encode(encoder, moving(frames=9), spans, 10.0)
    assert feat.shape == (2, 1, encoder.dim) and feat.dtype == np.float32
    assert np.isfinite(feat).all()
    assert encoder.manifest["standardise"] and encoder.crops == {"count": 1, "order": "whole"}


def test_speed_is_percent_of_the_width_a_second():
    # 2 pixels of 144 a frame, 10 frames a second: 13.9 percent a second.
    speed = np.expm1(ranked(encode(moving(step=2)), SPEED_MEAN)[0])
    np.testing.assert_allclose(np.median(speed), 100 * 2 * 10 / 144, rtol=0.1)
    # All of it moves as one, so |mean flow| is the mean speed in the median cell.
    as_one = np.expm1(ranked(encode(moving(step=2)), AS_ONE)[0])
    np.testing.assert_allclose(np.median(as_one), np.median(speed), rtol=0.05)


def test_frame_rate_scales_speed():
    slow, fast = (np.expm1(ranked(encode(moving(), fps), SPEED_MEAN)) for fps in (5.0, 10.0))
    np.testing.assert_allclose(fast, 2 * slow, rtol=1e-4)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(8, range(10)), (12, range(10)), (20, range(0, 10, 2)), (25, [0, 3, 6, 9]), (1000, [0, 9])],
)
def test_about_nine_frames_a_second_are_taken(rate, expected):
    spans = np.array([[0, 4], [4, 5], [5, 10]])
    stream = MotionEncoder().begin(spans, 10, rate)
    np.testing.assert_array_equal(stream.wanted_F, expected)
    # A snippet between two of them takes the one before it.
    frames = moving(frames=10)
    feat = streaming.encode(MotionEncoder(), frames, spans, rate)
    assert np.isfinite(feat).all()
    # The frames between don't matter.
    other = frames.copy()
    other[[i for i in range(10) if i not in expected]] = 0
    np.testing.assert_array_equal(streaming.encode(MotionEncoder(), other, spans, rate), feat)


def test_an_outline_of_the_place_is_kept():
    def patch(top, left):
        # On a flat ground, so that nothing but the patch is seen.
        frames = np.full((9, 96, 144, 3), 128, np.uint8)
        for i, part in enumerate(moving(frames=9, shape=(24, 24))):
            frames[i, top : top + 24, left : left + 24] = part
        return encode(frames)[0]

    rows, columns = MotionEncoder.grid
    here, there = patch(24, 24), patch(48, 96)
    for statistic in (SPEED_P99, SPEED_MEAN, AS_ONE):
        # The largest value is the same wherever the patch is.
        np.testing.assert_allclose(
            here[statistic * RANKS], there[statistic * RANKS], rtol=0.15, atol=0.05
        )
        # The outline tells its row and its column.
        start = NUM_MOTION * RANKS + statistic * (rows + columns)
        for feat_D, row, column in ((here, 1, 1), (there, 2, 4)):
            outline_L = feat_D[start : start + rows + columns]
            assert (outline_L[:rows].argmax(), outline_L[rows:].argmax()) == (row, column)


def test_a_still_video_has_no_motion():
    feat = encode(np.repeat(moving(frames=1), 6, axis=0))
    motion = np.concatenate([ranked(feat, s) for s in (SPEED_P99, SPEED_MEAN, AS_ONE)], axis=1)
    assert np.abs(motion).max() < 0.05


def test_a_single_frame_and_a_short_last_snippet():
    assert np.isfinite(encode(moving(frames=1))).all()
    frames = moving(frames=10)
    feat = encode(frames, snippet=(8, 4))
    assert len(feat) == 2
    # The last snippet is frames 4 to 9 alone: other first frames don't change it.
    other = frames.copy()
    other[:3] = 0
    np.testing.assert_array_equal(encode(other, snippet=(8, 4))[1, :RANKS], feat[1, :RANKS])


def test_small_and_flat_pictures_are_padded():
    """In a process of its own, because pictures too small for OpenCV's flow may kill it."""
    sizes = [(8, 96), (12, 48), (14, 64), (14, 240), (8, 240), (4, 4), (2, 64), (64, 2)]
    sizes += [(96, 1920), (2, 1920), (240, 12), (10, 10), (16, 16)]
    code = (
        "import numpy as np; from generation.encoders.motion import MotionEncoder\n"
        "from tests.support import streaming\n"
        f"for size in {sizes}:\n"
        "    frames = np.random.default_rng(0).integers(0, 255, (3, *size, 3), dtype=np.uint8)\n"
        "    feat = streaming.encode(MotionEncoder(), frames, [[0, 3]], 10.0)\n"
        "    assert np.isfinite(feat).all(), size\n"
        "    print(size, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(sizes), done
    # A strip moves as fast as the picture that it was cut from.
    frames = moving(shape=(96, 144))
    whole, strip = (ranked(encode(part), SPEED_MEAN)[0] for part in (frames, frames[:, :12]))
    np.testing.assert_allclose(np.median(np.expm1(strip)), np.median(np.expm1(whole)), rtol=0.1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((16, 16), (16, 16)),
        ((16, 240), (16, 240)),
        ((12, 240), (16, 240)),  # padded
        ((64, 96), (64, 96)),
        ((96, 1920), (16, 240)),  # 12 rows, padded
        ((480, 640), (180, 240)),
        ((720, 1280), (135, 240)),
        ((1280, 720), (320, 180)),
        ((640, 17), (640, 17)),
        ((8000, 17), (5206, 16)),  # 11 columns, padded
    ],
)
def test_pictures_are_scaled_to_a_width_and_an_area(size, expected):
    frame = np.zeros((*size, 3), np.uint8)
    assert MotionEncoder().small(streaming.pictures([frame])[0]).shape == expected


def test_features_are_a_pure_function():
    np.testing.assert_array_equal(encode(moving()), encode(moving()))


def test_unknown_encoders_poolings_and_crops_are_errors():
    with pytest.raises(UserError, match="motion, clip-b32, clip-b16, clip-l14, siglip2"):
        VisualOptions(encoder="i3d")
    with pytest.raises(UserError, match="--pooling"):
        make_encoder(VisualOptions(pooling="middle"))
    with pytest.raises(UserError, match="--crops"):
        make_encoder(VisualOptions(crops="ten"))


def test_clip_takes_its_options(weights):
    options = VisualOptions(encoder="clip-l14", weights=weights, pooling="middle", crops_at_once=3)
    encoder = make_encoder(options)
    assert encoder.crops == {"count": 1, "order": "centre"}
    assert encoder.id == "clip-tiny-clip" and encoder.manifest == {
        "id": "clip-tiny-clip",
        "digest": pretrained.known_digest(weights, pretrained.IMAGES),
        "weights": "tiny-clip",
        "pooling": "middle",
        "normalised": False,
        "standardise": False,
    }
    spans = np.array([[0, 4], [4, 5]])
    assert streaming.encode(encoder, moving(frames=5), spans, 10.0).shape == (2, 1, 6)
    ten = make_encoder(VisualOptions(encoder="clip-l14", crops="ten", weights=weights))
    assert ten.crops["count"] == 10 and ten.manifest["pooling"] == "mean"


def test_missing_clip_weights_are_an_error(tmp_path):
    options = VisualOptions(encoder="clip-l14", weights=str(tmp_path / "none"))
    with pytest.raises(UserError, match="expected a CLIP checkpoint"):
        make_encoder(options)
