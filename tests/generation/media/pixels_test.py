"""Pixel measures of frames with known answers, and the meter."""

import cv2
import numpy as np
import pytest

from generation.media import pixels

FPS = 8.0


def place(seed=0, height=120, width=160):
    """Returns a textured picture with grey levels 40 to 215."""
    rng = np.random.default_rng(seed)
    rough = cv2.resize(rng.integers(70, 180, (15, 20, 3)).astype(np.uint8), (width, height))
    return np.clip(rough + rng.normal(0, 10, rough.shape), 40, 215).astype(np.uint8)


def street(seconds=6.0, fps=FPS, seed=0):
    """A fixed camera's view of three boxes that cross it, whatever the rate."""
    frames = np.repeat(place(seed)[None], round(seconds * fps), axis=0)
    for t, frame in enumerate(frames):
        for n, speed in enumerate((24.0, -30.0, 17.0)):
            x = int(20 + 40 * n + speed * t / fps) % 146
            frame[20 + 32 * n :][:24, x : x + 14] = (60 * n, 220 - 80 * n, 40 + 60 * n)
    return frames


@pytest.mark.parametrize(
    ("num_frames", "fps", "count"),
    [(49, 8.0, 49), (30, 5.0, 30), (60, 10.0, 48), (100, 16.0, 50), (9000, 30.0, 80), (1, 25.0, 1)],
)
def test_wanted_frames_are_at_most_eight_a_second_of_the_middle(num_frames, fps, count):
    wanted = pixels.wanted_frames(num_frames, fps)
    assert wanted.dtype == np.int64 and len(wanted) == count
    assert (np.diff(wanted) > 0).all() and wanted[0] >= 0 and wanted[-1] < num_frames
    assert abs(wanted[0] + wanted[-1] - (num_frames - 1)) <= 2
    # No second of the video holds more than eight, and steps are even within a frame.
    steps = np.diff(wanted)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1
    assert len(steps) == 0 or steps.mean() >= fps / 8 - 1e-2
    assert len(pixels.wanted_frames(0, fps)) == 0


def grey(frame_HxWx3):
    return cv2.cvtColor(frame_HxWx3, cv2.COLOR_RGB2GRAY)


def test_a_meter_gives_the_measures_of_whole_videos():
    frames = street(seconds=15, fps=10.0)
    meter = pixels.Meter(len(frames), 10.0)
    assert len(meter.wanted) == 80 and meter.wanted[0] == 25
    for index in meter.wanted:
        meter.add(grey(frames[index]))
    found = meter.statistics(len(frames), 160)
    assert found == pixels.pixel_statistics(frames, 10.0, declared_frames=160)
    assert found["decoded_share"] == round(150 / 160, 4)
    with pytest.raises(ValueError, match="80 frames"):
        meter.add(grey(frames[0]))


def test_a_meter_keeps_small_pictures_only():
    meter = pixels.Meter(3, FPS)
    large = cv2.resize(place(), (1280, 960))
    for _ in range(3):
        meter.add(grey(large))
    assert {image.shape for image in meter._small} == {(120, 160)}
    assert all(image.base is None and not np.shares_memory(image, large) for image in meter._small)


def test_damaged_videos_are_measured_as_far_as_they_decode():
    frames = street(seconds=4)
    meter = pixels.Meter(64, FPS)
    for frame in frames:
        meter.add(grey(frame))
    half = meter.statistics(32, 64)
    assert half["decoded_share"] == 0.5 and half["motion"] > 1
    assert pixels.Meter(64, FPS).statistics(0, 64) == {"decoded_share": 0.0}
    one = pixels.pixel_statistics(frames[:1], FPS, declared_frames=4)
    assert one["decoded_share"] == 0.25 and one["motion"] == one["cut_ratio"] == one["scene"] == 0
    assert all(np.isfinite(list(one.values())))
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            pixels.Meter(10, fps)


def test_long_and_short_videos_of_a_scene_have_similar_measures():
    long = pixels.pixel_statistics(street(seconds=60, fps=30.0), 30.0)
    short = pixels.pixel_statistics(street(seconds=6, fps=8.0), 8.0)
    for name in ("motion", "sharpness", "detail", "carried", "cut_change"):
        assert long[name] == pytest.approx(short[name], rel=0.25), name
    assert long["frozen_share"] == short["frozen_share"] == 0


def test_motion_is_in_percent_of_the_width_per_second():
    wide = cv2.resize(place(), (480, 120))
    for size, fps in (((160, 120), 8.0), ((320, 240), 8.0), ((160, 120), 24.0)):
        shift = 16 / fps
        frames = [
            cv2.resize(wide[:, round(100 + shift * t) :][:, :160], size)
            for t in range(round(3 * fps))
        ]
        found = pixels.pixel_statistics(np.stack(frames), fps)
        # 16 of 160 pixels a second.
        assert found["camera"] == pytest.approx(10.0, rel=0.15)
        assert found["drift"] == pytest.approx(10.0, rel=0.15)


def test_sway_is_not_drift():
    wide = cv2.resize(place(), (480, 120))
    way = np.round(100 + 4 * np.sin(2 * np.pi * np.arange(48) / 4)).astype(int)
    found = pixels.pixel_statistics(np.stack([wide[:, x:][:, :160] for x in way]), FPS)
    assert found["camera"] > 10 and found["drift"] < 1


def flat(levels):
    return np.repeat(np.uint8(levels), 40 * 160 * 3).reshape(len(levels), 40, 160, 3)


def test_flicker_by_hand():
    # Every inner frame lies 10 grey levels off the mean of its neighbours.
    assert pixels.pixel_statistics(flat([100, 110] * 10), FPS)["flicker"] == pytest.approx(10.0)
    # A steady change lies on the line between them, at a rate that has to be thinned out too.
    assert pixels.pixel_statistics(flat(range(60, 180, 3)), 10.0)["flicker"] < 0.1


def test_flashes_are_not_flicker():
    rng = np.random.default_rng(0)
    calm = 100 + rng.normal(0, 1.5, 48)
    shots = calm.copy()
    shots[rng.random(48) < 0.2] += 25
    assert (shots > calm).sum() >= 7
    calm_flicker = pixels.pixel_statistics(flat(calm), FPS)["flicker"]
    assert pixels.pixel_statistics(flat(shots), FPS)["flicker"] == pytest.approx(
        calm_flicker, abs=0.4
    )


def test_frozen_black_and_blank_shares():
    frames = street()
    frames[24:] = frames[24]
    assert pixels.pixel_statistics(frames, FPS)["frozen_share"] == pytest.approx(23 / 47, abs=1e-4)
    frames = street()
    frames[10:22] = 0
    frames[30:36] = (10, 200, 30)
    found = pixels.pixel_statistics(frames, FPS)
    assert found["black_share"] == 0.25 and found["blank_share"] == 0.375


def test_a_cut_is_a_change_of_scene_and_so_is_a_dissolve():
    frames, other = street(), street(seed=5)
    sound = pixels.pixel_statistics(frames, FPS)
    cut = pixels.pixel_statistics(np.concatenate([frames[:24], other[24:]]), FPS)
    share_T = np.clip((np.arange(48) - 20) / 8, 0, 1)[:, None, None, None]
    dissolve = pixels.pixel_statistics((frames * (1 - share_T) + other * share_T).astype("u1"), FPS)
    assert cut["cut_ratio"] > 2
    assert cut["cut_change"] > 0.65 > sound["cut_change"]
    assert dissolve["cut_change"] < 0.65
    assert min(cut["scene"], dissolve["scene"]) > 0.8 > 0.3 > sound["scene"]


def test_carried_is_small_for_trails():
    frames = street().astype(np.float32)
    trail = np.stack([frames[max(0, t - 4) : t + 1].mean(axis=0) for t in range(len(frames))])
    found = [pixels.pixel_statistics(f.astype(np.uint8), FPS) for f in (frames, trail)]
    assert found[0]["carried"] > 0.1 > 0.04 > found[1]["carried"]
    # Where two frames apart are alike, nothing has moved.
    assert pixels.pixel_statistics(flat([100, 180] * 10), FPS)["carried"] == 1.0


def test_grain_measures_noise_and_not_motion():
    frames = street()
    noise = np.random.default_rng(1).normal(0, 12, frames.shape)
    noisy = np.clip(frames + noise, 0, 255).astype(np.uint8)
    assert pixels.pixel_statistics(frames, FPS)["grain"] < 1
    assert pixels.pixel_statistics(noisy, FPS)["grain"] > 4


def test_detail_falls_with_blur_whatever_the_contrast():
    sharp = place()
    pale = (sharp * 0.4 + 80).astype(np.uint8)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 3)
    of_sharp, of_pale, of_blurred = (
        pixels.pixel_statistics(np.stack([image] * 3), FPS) for image in (sharp, pale, blurred)
    )
    assert of_pale["detail"] == pytest.approx(of_sharp["detail"], rel=0.1)
    assert of_pale["sharpness"] < 0.3 * of_sharp["sharpness"]
    assert of_blurred["detail"] < 0.5 * of_sharp["detail"]


def test_blocks_are_found_at_any_offset():
    picture = cv2.resize(place(), (320, 240))
    coarse = cv2.resize(picture, (40, 30), interpolation=cv2.INTER_AREA).repeat(8, 0).repeat(8, 1)
    shifted = np.roll(coarse, (3, 5), axis=(0, 1))
    # Blocks in one direction only are no blocks: shelves, blinds.
    stripes = np.repeat(picture[:, ::8], 8, axis=1)
    blocks = [
        pixels.pixel_statistics(np.stack([image] * 2), FPS)["blocks"]
        for image in (picture, coarse, shifted, stripes)
    ]
    assert abs(blocks[0]) < 0.3 and blocks[1] > 3 and blocks[2] > 3 and blocks[3] < 0.3


def test_bands_are_isolated_levels_but_dither_is_not():
    ramp = np.tile(np.linspace(40, 215, 320), (240, 1))
    levels = np.floor(ramp / 32) * 32 + 16
    rng = np.random.default_rng(0)
    dithered = np.floor((ramp + rng.uniform(-16, 16, ramp.shape)) / 32) * 32 + 16
    bands = [
        pixels.pixel_statistics(np.stack([np.dstack([image.astype(np.uint8)] * 3)] * 2), FPS)[
            "bands"
        ]
        for image in (ramp, levels, dithered)
    ]
    assert bands[0] < 0.15 and bands[1] > 0.6 and bands[2] < 0.3
