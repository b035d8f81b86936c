"""Lengths of scores and labels: what they look like, and that none passes in silence."""

import json

import numpy as np
import pytest

from gvvad_jax import conventions, evaluation
from gvvad_jax.command import UserError


@pytest.mark.parametrize(
    ("found", "frames", "part"),
    [
        (160, 150, "its frames rounded up to 16: leave out the last ones"),
        (144, 150, "the last one left out: repeat the last score 6 times"),
        (144, 160, "the last one left out: repeat the last score 16 times"),
        (10, 150, "one score for each snippet of 16 frames: repeat each 16 times"),
        (9, 150, "one score for each snippet of 16 frames: repeat each 16 times"),
        (32, 1000, "32 segments of the video"),
        (2400, 150, "repeated 16 times too often"),
        (151, 150, ""),
        (150, 150, ""),
    ],
)
def test_a_length_is_explained(found, frames, part):
    explained = conventions.explain(found, frames)
    assert part in explained and bool(part) == bool(explained)


def test_circulating_lengths():
    assert conventions.circulating(1_114_144) == (
        ", the length of UCF-Crime's ground truth with each video's frames rounded up to 16"
    )
    assert conventions.circulating(5) == ""
    assert [conventions.rounded(37, c) for c in ("raw", "up", "down")] == [37, 48, 32]


FRAMES = {"a": 150, "b": 160, "n": 70}


def _measure(tmp_path, lengths, known=(), fps=None, **arrays):
    """Measures perfect scores of some lengths; videos of `known` have their frames in the list."""
    videos = {
        i: {"file": i, "label": int(i != "n"), "split": "test",
            "abnormal_frames": [[4, 9]] if i != "n" else []}
        | ({"num_frames": FRAMES[i]} if i in known else {})
        for i in lengths
    }  # fmt: skip
    content = {"videos": videos} | ({"fps": fps} if fps else {})
    (tmp_path / "v.json").write_text(json.dumps(content))
    scores = {i: np.zeros(n) for i, n in lengths.items()}
    for i in set(scores) - {"n"}:
        scores[i][4:9] = 1
    np.savez(tmp_path / "s.npz", **scores, **{k.replace("_", "/"): v for k, v in arrays.items()})
    return evaluation.measure_files(str(tmp_path / "s.npz"), str(tmp_path / "v.json"))


@pytest.mark.parametrize(("length", "part"), [(160, "rounded up"), (10, "one score for each")])
def test_a_known_length_refuses_others_with_the_convention(tmp_path, length, part):
    assert _measure(tmp_path, FRAMES, known=FRAMES)["auc"] == 1.0
    with pytest.raises(UserError, match=rf"'a': expected 150 frames as in .*{part}"):
        _measure(tmp_path, FRAMES | {"a": length}, known=FRAMES)


def test_a_g_npz_of_another_length_is_explained(tmp_path):
    np.savez(tmp_path / "g.npz", a=np.r_[np.zeros(100), np.ones(50)])
    np.savez(tmp_path / "s.npz", a=np.zeros(160))
    with pytest.raises(UserError, match="expected 150 frames as in .* rounded up to 16"):
        evaluation.measure_files(str(tmp_path / "s.npz"), str(tmp_path / "g.npz"))


@pytest.mark.parametrize(
    ("lengths", "part"),
    [
        ({"a": 160, "b": 160, "n": 80}, "checked (each has a multiple of 16: if they are snippet"),
        ({"a": 151, "b": 161, "c": 170, "n": 70}, "checked (every event ends in the first eighth"),
        ({"a": 1_114_143, "n": 1}, "checked (1114144 in all, the length of UCF-Crime's ground"),
        ({"a": 20, "b": 30, "n": 70}, "checked; 'a' first: 20 scores"),
    ],
)
def test_without_frame_counts_lengths_are_reported_with_what_they_look_like(
    tmp_path, capsys, lengths, part
):
    assert _measure(tmp_path, lengths)["auc"] == 1.0
    assert part in capsys.readouterr().err


def test_scores_that_end_before_the_event_are_refused_without_frame_counts(tmp_path):
    videos = {"a": {"file": "a", "label": 1, "split": "test", "abnormal_frames": [[40, 60]]}}
    (tmp_path / "v.json").write_text(json.dumps({"videos": videos}))
    np.savez(tmp_path / "s.npz", a=np.zeros(10))
    with pytest.raises(UserError, match="its 10 frames .* an event that ends at 60"):
        evaluation.measure_files(str(tmp_path / "s.npz"), str(tmp_path / "v.json"))


def test_normal_videos_at_another_rate_have_the_scores_of_their_time(tmp_path):
    """70 frames at 10 fps are 175 at 25; 70 scores at 25 fps are another length."""
    rates = {f"fps_{i}": np.array(25.0) for i in ("a", "n")}
    lengths = {"a": 375, "n": 175}
    _measure(tmp_path, lengths, known=("a", "n"), fps=10, **rates)
    with pytest.raises(UserError, match="'n': expected 175 scores at 25 fps for its 70 frames"):
        _measure(tmp_path, lengths | {"n": 400}, known=("a", "n"), fps=10, **rates)
