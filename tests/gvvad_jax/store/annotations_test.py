"""videos.json, and what follows from it in time."""

import json

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations


def _entry(**changes):
    return {"file": "a.mp4", "label": 1, "split": "test"} | changes


def _load(tmp_path, **changes):
    path = tmp_path / "videos.json"
    path.write_text(json.dumps({"fps": 10, "videos": {"a": _entry(**changes)}}))
    return annotations.load(path)


def test_reads_defaults_and_writes_back_equal(tmp_path):
    loaded = _load(tmp_path, abnormal_frames=[[2, 4]], num_frames=6, **{"class": "Arson"})
    video = loaded.videos["a"]
    assert (video.fps, video.cls, video.abnormal_frames) == (10, "Arson", ((2, 4),))
    assert annotations.from_json(loaded.to_json(), loaded.path) == loaded


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"label": 2}, "label"),
        ({"label": True}, "label"),
        ({"split": "dev"}, "split"),
        ({"file": 3}, "file"),
        ({"class": ["Arson", "Fire"]}, "class"),
        ({"fps": 0}, "fps"),
        ({"fps": float("inf")}, "fps a positive number, found inf"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": 10**400}, "fps"),
        ({"num_frames": 2.5}, "num_frames"),
        ({"abnormal_frames": [[4, 2]]}, "abnormal_frames"),
        ({"abnormal_frames": [[0, 9]], "num_frames": 8}, "abnormal_frames"),
        ({"abnormal_frames": [[0, 2]], "label": 0}, "abnormal_frames"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, changes, named):
    with pytest.raises(UserError, match=f"videos.json: video 'a': expected {named}"):
        _load(tmp_path, **changes)


@pytest.mark.parametrize("content", ["", "[]", '{"videos": {}}', '{"videos": []}'])
def test_a_wrong_file_is_named(tmp_path, content):
    path = tmp_path / "videos.json"
    path.write_text(content)
    with pytest.raises(UserError, match="videos.json: expected"):
        annotations.load(path)
    with pytest.raises(UserError, match="absent.json: expected"):
        annotations.load(tmp_path / "absent.json")


def test_a_rate_for_all_is_told_as_it_is():
    content = {"fps": float("inf"), "videos": {"a": _entry()}}
    with pytest.raises(UserError, match="expected fps a positive number, found inf"):
        annotations.from_json(content, "videos.json")


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(UserError, match=r"expected id without lone surrogates, found 'a\\ud800'"):
        annotations.from_json({"videos": {"a\ud800": _entry()}}, "videos.json")


def test_a_name_that_comes_twice_is_told(tmp_path):
    path = tmp_path / "videos.json"
    entry = json.dumps(_entry())
    path.write_text(f'{{"videos": {{"a": {entry}, "b": {entry}, "a": {entry}}}}}')
    with pytest.raises(UserError, match="videos.json: expected each name once .* found 'a' twice"):
        annotations.load(path)


@pytest.mark.parametrize("file", ["a\0.mp4", "a" * 300, "a\ud800.mp4", "b/" * 4000, "circle"])
def test_a_file_that_cannot_be_looked_for(tmp_path, file):
    (tmp_path / "circle").symlink_to("circle")
    loaded = _load(tmp_path, file=file)
    with pytest.raises(
        UserError, match="video 'a': expected a file that can be looked for"
    ) as told:
        loaded.resolve(loaded.videos["a"])
    assert len(str(told.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("file", ["../a.mp4", "/etc/passwd", "x/../../a.mp4"])
def test_a_file_may_not_leave_the_folder(tmp_path, file):
    loaded = _load(tmp_path, file=file)
    with pytest.raises(UserError, match="inside the json's folder"):
        loaded.resolve(loaded.videos["a"])


def test_a_link_may_not_leave_the_folder(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"")
    (inside / "a.mp4").symlink_to(tmp_path / "secret.mp4")
    loaded = _load(inside)
    with pytest.raises(
        UserError, match="inside the json's folder.*'a.mp4', a link to .*/secret.mp4"
    ):
        loaded.resolve(loaded.videos["a"])


def test_frame_labels_are_half_open(tmp_path):
    video = _load(tmp_path, abnormal_frames=[[1, 3], [5, 6]]).videos["a"]
    np.testing.assert_array_equal(annotations.frame_labels(video, 6), [0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(annotations.frame_labels(video, 2), [0, 1])
    with pytest.raises(UserError, match=r"^video 'a': .* within its 1 frames, found \[1, 3\]"):
        annotations.frame_labels(video, 1)


def test_an_abnormal_video_without_intervals_has_no_frame_labels(tmp_path):
    with pytest.raises(UserError, match="^g.json: video 'a': expected abnormal_frames"):
        annotations.frame_labels(_load(tmp_path).videos["a"], 5, "g.json")


@pytest.mark.parametrize(
    ("num_frames", "frames", "stride", "spans"),
    [
        (1, 16, 16, [[0, 1]]),
        (16, 16, 16, [[0, 16]]),
        (17, 16, 16, [[0, 16], [16, 17]]),
        (20, 16, 4, [[0, 16], [4, 20]]),
        (21, 16, 4, [[0, 16], [4, 20], [8, 21]]),
        (5, 2, 4, [[0, 2], [4, 5]]),
        (4, 2, 4, [[0, 2]]),
    ],
)
def test_snippet_spans(num_frames, frames, stride, spans):
    np.testing.assert_array_equal(alignment.snippet_spans(num_frames, frames, stride), spans)


def test_resampling_takes_the_frames_nearest_in_time():
    np.testing.assert_array_equal(alignment.resampled_frames(6, 30, 15), [1, 3, 5])
    np.testing.assert_array_equal(alignment.resampled_frames(3, 5, 10), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(alignment.resampled_frames(1, 30, 10), [0])
    np.testing.assert_array_equal(alignment.resampled_frames(9, 30, 1e-9), [8])


@pytest.mark.parametrize(("fps", "target_fps"), [(1e-9, 8.0), (10, 1e12), (5e-324, 1e300)])
def test_resampling_to_no_possible_length_is_refused(fps, target_fps):
    with pytest.raises(UserError, match="expected at most 16777216 frames after resampling"):
        alignment.resampled_frames(12, fps, target_fps)


def test_snippet_times_follow_the_fps_policy():
    np.testing.assert_allclose(
        alignment.snippet_times(20, 10.0, 16, 16, "native"), [[0, 1.6], [1.6, 2.0]]
    )
    np.testing.assert_allclose(
        alignment.snippet_times(60, 30.0, 16, 16, 10.0), [[0, 1.6], [1.6, 2.0]]
    )


def test_frame_scores_are_means_of_the_covering_snippets():
    times_Tx2 = np.array([[0.0, 0.4], [0.2, 0.6]])
    scores = alignment.frame_scores(np.array([1.0, 3.0]), times_Tx2, 8, 10.0)
    np.testing.assert_allclose(scores, [1, 1, 2, 2, 3, 3, 3, 3])


def test_a_frame_between_snippets_takes_the_nearest():
    times_Tx2 = np.array([[0.0, 0.2], [0.45, 0.7]])
    scores = alignment.frame_scores(np.array([1.0, 3.0]), times_Tx2, 9, 10.0)
    np.testing.assert_allclose(scores, [1, 1, 1, 3, 3, 3, 3, 3, 3])


@pytest.mark.parametrize(
    ("frames", "stride", "policy", "published"),
    [
        (16, 16, "native", True),
        (16, "unknown", "unknown", True),
        (16, 4, "native", False),
        (8, 16, "native", False),
        (16, 16, 30.0, False),
    ],
)
def test_the_published_protocol_is_of_16_frames(frames, stride, policy, published):
    snippet = {"frames": frames, "stride": stride, "pooling": "mean"}
    assert alignment.is_published(snippet, policy) is published


def test_reference_protocol_repeats_cuts_and_pads():
    scores = alignment.reference_frame_scores(np.array([0.5, 1.0]))
    assert scores.shape == (32,) and scores[15] == 0.5 and scores[16] == 1.0
    _, cut = alignment.reference_align(scores, np.arange(40))
    np.testing.assert_array_equal(cut, np.arange(32))
    _, padded = alignment.reference_align(scores, [0] * 29 + [1])
    np.testing.assert_array_equal(padded, [0] * 29 + [1] * 3)
