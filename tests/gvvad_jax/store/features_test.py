"""Stores of one's own features: written in few lines, resumed, checked."""

import json

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter
from tests.support.tiny_store import files


def _features(video_id, shape=(3, 4)):
    return np.random.default_rng(ord(video_id)).normal(size=shape).astype(np.float32)


def _write(path, ids="abc", fail_after=None, **changes):
    """Adds videos by the letters of `ids`; an error ends the block after so many."""
    with StoreWriter.for_features(path, dim=4, snippet_frames=8) as writer:
        for i, video_id in enumerate(ids):
            if i == fail_after:
                raise KeyboardInterrupt
            entry = {"label": i % 2, "split": "train"} | changes
            writer.add_video(video_id, _features(video_id), **entry)


def test_features_are_read_back_with_what_was_said_of_them(tmp_path):
    with StoreWriter.for_features(tmp_path, dim=4, crops=2, text_dim=3, encoder="mine") as writer:
        features = {i: _features(i, (20, 2, 4)) for i in "ab"}
        for i, video_id in enumerate("ba"):
            writer.add_video(
                video_id, features[video_id], text=np.ones((20, 3)), label=np.int64(i),
                split="test", fps=10, num_frames=np.int64(310), class_name="Arson",
                abnormal_frames=np.array([[40, 90]]) if i else None, source="synthetic",
                group="gate" if i else None,
            )  # fmt: skip
    store = Store(tmp_path)
    assert store.faults() == [] and len(store) == 2 and list(store) == ["a", "b"]
    assert "a" in store and "c" not in store and store == store and store != Store(tmp_path)
    video = store["a"]
    np.testing.assert_array_equal(video.visual_TxNxD, features["a"])
    assert video.text_TxE.shape == (20, 3) and video.times_Tx2.shape == (20, 2)
    assert (video.row.num_frames, video.row.fps, video.row.source) == (310, 10.0, "synthetic")
    annotation = video.annotation
    assert annotation.abnormal_frames == ((40, 90),) and annotation.label == 1
    assert (annotation.cls, annotation.split, annotation.num_frames) == ("Arson", "test", 310)
    assert (annotation.group, store["b"].annotation.kin) == ("gate", "b")
    assert store.manifest.encoder["id"] == "mine" and store["b"].annotation.label == 0
    assert [video.id for video in store.values()] == ["a", "b"]
    with pytest.raises(KeyError):
        store["c"]


def test_a_killed_script_resumes_and_a_second_run_changes_nothing(tmp_path):
    _write(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "killed", fail_after=2)
    with pytest.raises(UserError, match="under way"):
        Store(tmp_path / "killed")
    parts = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed/parts").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "killed", fail_after=2)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed/parts").iterdir()}
    assert len(parts) == 4 and parts == after
    _write(tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    shard = tmp_path / "whole" / "shard-00000.visual.npy"
    before = shard.stat().st_mtime_ns
    _write(tmp_path / "whole")
    assert shard.stat().st_mtime_ns == before


def test_a_finished_store_grows_and_changed_videos_are_replaced(tmp_path):
    _write(tmp_path, "ab")
    _write(tmp_path, "cd")
    store = Store(tmp_path)
    assert list(store) == ["a", "b", "c", "d"] and not store.faults()
    with StoreWriter.for_features(tmp_path, dim=4, snippet_frames=8) as writer:
        writer.add_video("b", _features("z", (5, 4)), label=1, split="test")
    store = Store(tmp_path)
    assert list(store) == ["a", "b", "c", "d"] and not store.faults()
    np.testing.assert_array_equal(store["b"].visual_TxNxD[:, 0], _features("z", (5, 4)))
    assert store["b"].annotation.split == "test" and store["a"].annotation.split == "train"
    np.testing.assert_array_equal(store["d"].visual_TxNxD[:, 0], _features("d"))
    # Another label alone is a change too.
    _write(tmp_path, "a", label=1)
    assert Store(tmp_path)["a"].annotation.label == 1


def test_a_store_that_lost_a_video_is_not_finished(tmp_path):
    _write(tmp_path, "ab")
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path, "cd", fail_after=1)
    listed = json.loads((tmp_path / "videos.json").read_text())
    listed["videos"]["e"] = listed["videos"]["a"]
    (tmp_path / "videos.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match="found 'e' and 0 more missing; add them again"):
        _write(tmp_path, "c")
    _write(tmp_path, "ce")
    assert list(Store(tmp_path)) == ["a", "b", "c", "e"]


def test_a_store_of_no_video_or_other_settings_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected at least one video"):
        _write(tmp_path, "")
    _write(tmp_path, "a")
    with pytest.raises(
        UserError,
        match="expected the store here to have the same settings, found dim 4 instead of 5;",
    ):
        StoreWriter.for_features(tmp_path, dim=5, snippet_frames=8)
    for name, value in (("dim", 0), ("crops", 1.5), ("snippet_frames", True), ("text_dim", -1)):
        with pytest.raises(UserError, match=f"^{name}: expected a whole number"):
            StoreWriter.for_features(tmp_path / "b", **({"dim": 4} | {name: value}))
    with pytest.raises(UserError, match="^dtype: expected float16 or float32"):
        StoreWriter.for_features(tmp_path / "b", dim=4, dtype="float64")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros((3, 5))}, r"features: expected an array \[T, 4\] or \[T, 1, 4\]"),
        ({"features": np.zeros((0, 4))}, r"features: expected .* found \[0, 4\]"),
        ({"features": np.zeros(4)}, r"features: expected .* found \[4\]"),
        ({"features": np.zeros((3, 2, 4))}, r"features: expected .* found \[3, 2, 4\]"),
        ({"features": np.full((3, 4), np.inf)}, "features: expected finite numbers"),
        ({"features": [["a"] * 4]}, "features: expected .* of numbers"),
        ({"features": None}, "features: expected .* of numbers, found object"),
        ({"text": np.zeros((3, 2))}, "text: expected none, found some; give text_dim"),
        ({"label": 2}, "expected label 0 or 1, found 2"),
        ({"split": "dev"}, "expected split train, validation or test"),
        ({"fps": 0}, "expected fps a positive number"),
        ({"fps": "25"}, "expected fps a positive number"),
        ({"num_frames": 2.5}, "expected num_frames a positive int"),
        ({"abnormal_frames": [[0, 99]]}, "expected abnormal_frames"),
        ({"abnormal_frames": 7}, "expected abnormal_frames"),
        ({"label": 0, "abnormal_frames": [[0, 8]]}, "expected abnormal_frames empty"),
        ({"class_name": 3}, "expected class to be a name"),
        ({"source": "film"}, "source: expected real or synthetic"),
    ],
)
def test_a_video_that_does_not_fit_names_the_argument(tmp_path, changes, message):
    given = {"features": np.zeros((3, 4)), "label": 1, "split": "test"} | changes
    writer = StoreWriter.for_features(tmp_path, dim=4, snippet_frames=8)
    with pytest.raises(UserError, match=f"add_video: video 'a': {message}"):
        writer.add_video("a", **given)
    assert not writer.has("a")


def test_text_must_fit_too(tmp_path):
    writer = StoreWriter.for_features(tmp_path, dim=4, text_dim=2)
    for text, found in ((None, "none"), (np.zeros((2, 2)), r"\[2, 2\]"), (np.zeros(3), r"\[3\]")):
        with pytest.raises(UserError, match=rf"text: expected an array \[3, 2\], found {found}"):
            writer.add_video("a", np.zeros((3, 4)), label=0, split="test", text=text)
    with pytest.raises(UserError, match="expected an id that is a string, found 3"):
        writer.add_video(3, np.zeros((3, 4)), label=0, split="test", text=np.zeros((3, 2)))
