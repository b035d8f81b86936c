"""Captions describe what the pixels show; nothing else reaches the captioner."""

import ast
import inspect
import pathlib

import numpy as np
import pytest

from generation.encoders import motion_captions
from generation.encoders.banks import prompt_bank
from generation.encoders.text import HashedTextEncoder
from generation.media import reading
from generation.media.writing import write_video
from tests.support import streaming

FPS = 10.0
ERRATIC = "erratic motion to and fro"


def _place(num_frames=16):
    rng = np.random.default_rng(0)
    place = np.kron(rng.integers(70, 170, (15, 20, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return np.repeat(place[None], num_frames, axis=0)


def _put(frames, top_T, left_T, height=24, width=12, seed=1):
    """Draws a textured box at the given places."""
    box = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 1))
    box = np.kron(box, np.ones((4, 4, 3))).astype(np.uint8)
    for frame, top, left in zip(frames, top_T, left_T, strict=True):
        frame[int(top) : int(top) + height, int(left) : int(left) + width] = box
    return frames


def _caption(frames, folder=None):
    if folder is not None:
        write_video(folder / "video.mp4", frames, fps=FPS)
        frames = reading.read(folder / "video.mp4").frames_TxHxWx3
    spans_Tx2 = np.array([[0, len(frames)]])
    return streaming.run(motion_captions.MotionCaptioner(), frames, spans_Tx2, FPS)[0]


def _measure(frames, spans_Tx2, fps):
    stream = motion_captions.MotionCaptioner().begin(np.array(spans_Tx2), len(frames), fps)
    shown = streaming.pictures(frames)
    return stream.measure([stream.prepare(shown[index]) for index in stream.wanted_F])


T = np.arange(16)
STAY = np.full(16, 40)


def test_a_still_place_has_no_motion():
    assert _caption(_place()) == "no region barely moving, calm and even"
    assert "single picture" in _caption(_place(1))


@pytest.mark.parametrize(
    ("top_T", "left_T", "direction"),
    [
        (STAY, 30 + 3 * T, " to the right"),
        (STAY, 100 - 3 * T, " to the left"),
        (20 + 3 * T, 2 * STAY, " towards the camera"),
        (80 - 3 * T, 2 * STAY, " away from the camera"),
    ],
)
def test_direction_and_pace_of_a_moving_region(top_T, left_T, direction, tmp_path):
    caption = _caption(_put(_place(), top_T, left_T), tmp_path)
    assert caption.startswith("one people-sized region moving") and direction in caption
    # 3 of 160 pixels, ten times a second, are 19 % of the width a second.
    facts = _measure(_put(_place(), top_T, left_T), [[0, 16]], FPS)[0]
    assert 7 < facts.speed < 19
    assert ERRATIC not in caption


def test_regions_are_counted(tmp_path):
    frames = _place()
    for n in range(2):
        _put(frames, STAY + 45 * (n == 0), 30 + 2 * T + 50 * n, seed=n)
    assert _caption(frames, tmp_path).startswith("two people-sized regions")


def test_motion_to_and_fro_is_erratic(tmp_path):
    swing_T = 60 + np.array([0, 4, 8, 4, 0, -4, -8, -4] * 2)
    caption = _caption(_put(_place(), STAY, swing_T), tmp_path)
    assert f"{ERRATIC} close together in one spot" in caption


def test_a_shaking_camera_is_not_erratic_motion():
    wide = np.concatenate([_place(), _place()[:, :, ::-1]], axis=2)
    sway_T = 40 + np.array([0, 3, 6, 3, 0, -3, -6, -3] * 2)
    caption = _caption(np.stack([f[:, x : x + 160] for f, x in zip(wide, sway_T, strict=True)]))
    assert "camera itself is swaying" in caption and ERRATIC not in caption


def test_a_flash_differs_from_a_broken_lamp():
    frames = _place()
    frames[7] += 70
    assert "a sudden bright flash" in _caption(frames)
    frames[1::2] += 40
    assert "a lamp switching" in _caption(frames)


def test_flames_are_fire_coloured_and_changing(tmp_path):
    frames, rng = _place(), np.random.default_rng(3)
    blocks = rng.random((16, 10, 10)) < 0.5
    for frame, block in zip(frames, blocks, strict=True):
        patch = np.where(block[..., None], (250, 150, 30), (90, 80, 80))
        frame[40:80, 60:100] = np.kron(patch, np.ones((4, 4, 1)))
    assert "bright orange flames flickering" in _caption(frames, tmp_path)
    frames[:] = frames[0]
    assert "flames" not in _caption(frames, tmp_path)


def test_a_snippet_has_its_own_caption_and_frame_rates_compare():
    still_then_right = _put(_place(32), np.full(32, 40), np.r_[[30] * 16, 30 + 3 * T])
    spans = np.array([[0, 16], [16, 32]])
    captioner = motion_captions.MotionCaptioner()
    first, second = streaming.run(captioner, still_then_right, spans, FPS)
    assert "barely" in first and "to the right" in second
    slow = _measure(still_then_right, spans, FPS)[1]
    doubled = np.repeat(still_then_right, 2, axis=0)
    fast = _measure(doubled, 2 * spans, 2 * FPS)[1]
    assert fast.speed == pytest.approx(slow.speed, rel=0.1)


def test_the_captioner_sees_only_pixels_spans_and_the_frame_rate():
    parameters = inspect.signature(motion_captions.MotionCaptioner.begin).parameters
    assert set(parameters) == {"self", "spans_Tx2", "num_frames", "rate"}
    tree = ast.parse(pathlib.Path(motion_captions.__file__).read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (getattr(node, "module", None), *(alias.name for alias in node.names))
        if name
    }
    names = {"dataclasses", "math", "collections.abc", "Sequence", "cv2", "numpy"}
    names |= {"typing", "TYPE_CHECKING", "generation.media.reading", "Picture"}
    assert imported <= names


def test_erratic_captions_lie_closer_to_the_bank_than_calm_ones():
    embed = HashedTextEncoder()
    bank_KxE = embed([prompt.phrase for prompt in prompt_bank("ucf_crime", "motion")])
    swing_T = 60 + np.array([0, 4, 8, 4, 0, -4, -8, -4] * 2)
    erratic = _caption(_put(_place(), STAY, swing_T))
    calm = _caption(_put(_place(), STAY, 30 + 2 * T))
    near, far = (embed([erratic, calm]) @ bank_KxE.T).max(axis=1)
    assert near > far + 0.2
