"""The baselines on frames whose values are known."""

import numpy as np
import pytest

from gvvad_jax.store import annotations
from tests.support.textures import moving
from tools.studies import baselines


def test_brightness_difference_and_sharpness_by_hand():
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    frames[1] = 30
    frames[2] = 10
    rules = baselines.rule_scores(frames)
    assert set(rules) == set(baselines.RULES)
    assert rules["brightness"].tolist() == [0, 30, 10]
    # The first frame takes the second one's difference.
    assert rules["frame_difference"].tolist() == [30, 30, 20]
    assert rules["sharpness"].tolist() == [0, 0, 0]
    dot = np.zeros((1, 32, 48, 3), np.uint8)
    dot[0, 16, 24] = 10
    # Laplacian: -40 at the dot, 10 at four neighbours, mean 0: (1600 + 400) / (32 * 48).
    assert baselines.rule_scores(dot)["sharpness"][0] == pytest.approx(2000 / (32 * 48))
    assert baselines.rule_scores(dot)["flow_p99"].tolist() == [0]


def test_flow_in_pixels_a_frame():
    rules = baselines.rule_scores(moving(step=2, frames=6))
    assert rules["mean_flow"] == pytest.approx(2, rel=0.15)
    assert rules["flow_p99"].min() > 1.8
    assert rules["flow_p99"][0] == rules["flow_p99"][1]


def test_the_busiest_cell_counts():
    speed = np.zeros((40, 60))
    speed[30:, :10] = 3.0
    assert baselines._busiest_cell(speed) == 3.0


def test_smoothing_averages_the_covering_snippets():
    # Snippets [0, 4), [2, 6): means 1 and 3; frames 2 and 3 lie in both.
    smooth = baselines.smoothed(np.array([0, 0, 2, 2, 4, 4.0]), 4, 2)
    assert smooth.tolist() == [1, 1, 2, 2, 3, 3]


def test_measures_with_the_better_sign_and_the_oracle():
    content = {"fps": 10, "videos": {
        "a": {"file": "a.mp4", "label": 1, "split": "test", "abnormal_frames": [[2, 4]]},
        "b": {"file": "b.mp4", "label": 0, "split": "test"},
    }}  # fmt: skip
    videos = annotations.from_json(content, "videos.json").in_split("test")
    scores = {"a": {"dark": np.array([5, 1, 2, 0.0])}, "b": {"dark": np.array([9, 8, 7, 6.0])}}
    table = baselines.measure(scores, videos)
    # Flipped: positives -2, 0 against -5, -1, -9, -8, -7, -6: 11 of 12; within a: 3 of 4.
    assert table["dark"] == {
        "auc": pytest.approx(11 / 12),
        "auc_abnormal": pytest.approx(3 / 4),
        "flipped": True,
    }
    # The oracle ties with the abnormal video's two normal frames: (4 + 1) / 6.
    assert table["oracle"]["auc"] == pytest.approx(5 / 6)
    assert table["oracle"]["auc_abnormal"] == 0.5


def test_a_missing_video_is_named(tmp_path):
    content = {"fps": 10, "videos": {"a": {"file": "a.mp4", "label": 0, "split": "test"}}}
    annotated = annotations.from_json(content, str(tmp_path / "videos.json"))
    with pytest.raises(ValueError, match="a.mp4"):
        baselines.score_video(annotated, annotated.videos["a"])
