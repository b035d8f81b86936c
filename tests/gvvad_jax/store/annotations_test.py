"""videos.json: reading, checking, resolving files, frame labels."""

import json

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations


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


def test_a_video_without_a_group_is_its_own(tmp_path):
    loaded = _load(tmp_path, group="camera 3")
    assert (loaded.videos["a"].group, loaded.videos["a"].kin) == ("camera 3", "camera 3")
    assert annotations.from_json(loaded.to_json(), loaded.path) == loaded
    alone = _load(tmp_path)
    assert (alone.videos["a"].group, alone.videos["a"].kin) == (None, "a")
    assert "group" not in alone.to_json()["videos"]["a"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"group": ""}, "group to be a name that isn't empty, found ''"),
        ({"group": 3}, "group to be a name that isn't empty, found 3"),
        ({"group": ["a"]}, "group"),
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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"abnormal_frames": [[0, 1 << 70]]}, "abnormal_frames"),
        ({"abnormal_frames": [[0, 2**24 + 1]]}, r"abnormal_frames \[start, end\) .*16777217"),
        ({"abnormal_frames": [[0, 2, 3]]}, "abnormal_frames"),
        ({"abnormal_frames": [[0.0, 2]]}, "abnormal_frames"),
        ({"abnormal_frames": {"0": 2}}, "abnormal_frames"),
        ({"abnormal_frames": [3, 3]}, "abnormal_frames"),
        (
            {"num_frames": 10**15},
            "num_frames a positive int up to 16777216, found 1000000000000000",
        ),
        ({"num_frames": -1}, "num_frames"),
        ({"label": None}, "label 0 or 1, found None"),
        ({"abnormal_frames": [[3, "\ud800"]]}, "entry to be an object of UTF-8 texts"),
        ({"label": "1"}, "label"),
        ({"fps": "25"}, "fps"),
        ({"file": None}, "file to be a path, found None"),
        ({"class": "a" * 10**6, "split": ["x" * 10**6]}, r"split .*, found \['x{58}\.\.\.;"),
    ],
)
def test_types_and_bounds_of_an_entry(tmp_path, changes, named):
    with pytest.raises(UserError, match=f"videos.json: video 'a': expected {named}"):
        _load(tmp_path, **changes)


def test_what_is_missing_is_named_and_other_keys_are_left_alone():
    content = {"videos": {"a": {"file": "a.mp4", "split": "test"}}}
    with pytest.raises(UserError, match="video 'a': expected label 0 or 1, found None"):
        annotations.from_json(content, "videos.json")
    with pytest.raises(UserError, match="video 'a': expected entry to be an object .*, found 3"):
        annotations.from_json({"videos": {"a": 3}}, "videos.json")
    content["videos"]["a"] |= {"label": 0, "camera": {"x": [None]}}
    assert annotations.from_json(content, "videos.json").videos["a"].label == 0


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_and_a_byte_order_mark_make_no_difference(tmp_path, start, end):
    text = json.dumps({"videos": {"a": _entry()}}, indent=1).encode()
    (tmp_path / "videos.json").write_bytes(start + text.replace(b"\n", end))
    assert dict(annotations.load(tmp_path / "videos.json").videos) == dict(
        _load(tmp_path, fps=None).videos
    )


def test_an_abnormal_video_with_no_event_is_not_labelled_in_time(tmp_path):
    loaded = _load(tmp_path, abnormal_frames=[])
    assert loaded.videos["a"].abnormal_frames is None
    assert annotations.from_json(loaded.to_json(), loaded.path) == loaded
    assert _load(tmp_path, label=0, abnormal_frames=[]).videos["a"].abnormal_frames == ()


@pytest.mark.parametrize("content", ["", "[]", '{"videos": {}}', '{"videos": []}'])
def test_a_wrong_file_is_named(tmp_path, content):
    path = tmp_path / "videos.json"
    path.write_text(content)
    with pytest.raises(UserError, match="videos.json: expected"):
        annotations.load(path)
    with pytest.raises(UserError, match="absent.json: expected"):
        annotations.load(tmp_path / "absent.json")


def test_a_rate_for_all_is_named_in_errors():
    content = {"fps": float("inf"), "videos": {"a": _entry()}}
    with pytest.raises(UserError, match="expected fps a positive number, found inf"):
        annotations.from_json(content, "videos.json")


def test_a_name_with_lone_surrogates_is_refused():
    with pytest.raises(UserError, match=r"'a\\ud800': expected an id without lone surrogates"):
        annotations.from_json({"videos": {"a\ud800": _entry()}}, "videos.json")


def test_a_repeated_name_is_refused(tmp_path):
    path = tmp_path / "videos.json"
    entry = json.dumps(_entry())
    path.write_text(f'{{"videos": {{"a": {entry}, "b": {entry}, "a": {entry}}}}}')
    with pytest.raises(UserError, match="videos.json: expected each name once .* found 'a' twice"):
        annotations.load(path)


@pytest.mark.parametrize("file", ["a\0.mp4", "a" * 300, "a\ud800.mp4", "b/" * 4000, "circle"])
def test_a_file_that_cannot_be_looked_for(tmp_path, file):
    (tmp_path / "circle").symlink_to("circle")
    loaded = _load(tmp_path, file=file)
    with pytest.raises(UserError, match="video 'a': expected the path of a file") as caught:
        loaded.resolve(loaded.videos["a"])
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("file", ["../a.mp4", "/etc/passwd", "x/../../a.mp4"])
def test_a_file_may_not_leave_the_folder(tmp_path, file):
    loaded = _load(tmp_path, file=file)
    with pytest.raises(UserError, match="inside the json's folder"):
        loaded.resolve(loaded.videos["a"])


def test_a_hub_snapshot_of_links_is_read(tmp_path):
    """The list and its videos are links into a folder of blobs, as huggingface_hub keeps them."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "f00d"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "video").write_bytes(b"sound")
    _load(blobs)
    (blobs / "videos.json").rename(blobs / "list")
    (snapshot / "a.mp4").symlink_to("../../blobs/video")
    (snapshot / "videos.json").symlink_to("../../blobs/list")
    loaded = annotations.load(snapshot / "videos.json")
    assert loaded.resolve(loaded.videos["a"]) == snapshot / "a.mp4"
    assert loaded.resolve(loaded.videos["a"]).read_bytes() == b"sound"


def test_a_linked_list_or_folder_finds_its_videos(tmp_path, monkeypatch):
    data, work = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    work.mkdir()
    _load(data)
    (data / "a.mp4").write_bytes(b"data")
    (work / "videos.json").symlink_to(data / "videos.json")
    loaded = annotations.load(work / "videos.json")
    # Nothing beside the link: beside the file that it stands for.
    assert loaded.resolve(loaded.videos["a"]) == data / "a.mp4"
    (work / "a.mp4").write_bytes(b"work")
    assert loaded.resolve(loaded.videos["a"]) == work / "a.mp4"
    (tmp_path / "alias").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    for folder in ("alias", "./alias/", "data", str(data)):
        loaded = annotations.load(f"{folder}/videos.json")
        assert loaded.resolve(loaded.videos["a"]).read_bytes() == b"data"
    listed = _load(tmp_path / "alias", file=str(data / "a.mp4"))
    assert listed.resolve(listed.videos["a"]) == data / "a.mp4"


def test_a_link_to_nothing_is_not_called_missing(tmp_path):
    (tmp_path / "a.mp4").symlink_to("gone.mp4")
    loaded = _load(tmp_path)
    with pytest.raises(UserError, match="found 'a.mp4', a link to 'gone.mp4', where there is none"):
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
