"""Ten crops of the motion encoder: what each sees of a frame, and its features."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from generation.encoders.motion import MotionEncoder
from generation.media import reading
from generation.media.writing import write_video
from gvvad_jax.store import alignment
from tools.bench import ten_crops


def test_views_are_corners_centre_and_their_mirror_images():
    frame_8x12 = np.arange(96).reshape(8, 12)
    views = list(ten_crops.views(frame_8x12))
    assert [view.shape for view in views] == [(7, 7)] * 10
    assert [int(view[0, 0]) for view in views[:5]] == [0, 5, 12, 17, 2]
    for crop, mirrored in zip(views[:5], views[5:], strict=True):
        np.testing.assert_array_equal(mirrored, crop[:, ::-1])


def test_each_crop_is_encoded_as_a_video_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    place = np.kron(rng.integers(0, 255, (8, 12)), np.ones((8, 8))).astype(np.uint8)
    frames = [np.repeat(np.roll(place, t, axis=1)[..., None], 3, axis=2) for t in range(6)]
    write_video(tmp_path / "v.mp4", frames, fps=9)
    spans_Tx2 = alignment.snippet_spans(6, 3, 3)
    features_Tx10xD = ten_crops.features(tmp_path / "v.mp4", spans_Tx2)
    assert features_Tx10xD.shape == (2, 10, MotionEncoder().dim)
    video = reading.read(tmp_path / "v.mp4").frames_TxHxWx3[..., 0]
    stream = MotionEncoder().begin(spans_Tx2, 6, 9.0)
    # Frames of grey have the same grey in each channel; the last crop is the mirrored centre.
    centre = [np.ascontiguousarray(list(ten_crops.views(grey))[9]) for grey in video]
    expected_T = np.stack([row[0] for row in stream.take(centre)])
    np.testing.assert_allclose(features_Tx10xD[:, 9], expected_T, rtol=0.05, atol=0.1)
