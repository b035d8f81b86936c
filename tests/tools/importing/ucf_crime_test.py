import json

import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from tools.importing.truth import TruthImport, import_truth

FILES = (
    "Part-1/Abuse/Abuse001_x264.mp4",
    "Part-1/Abuse/Abuse028_x264.mp4",
    "Normal-Part/Normal_Videos001_x264.mp4",
    "Testing/Normal_Videos_003_x264.mp4",
)
LISTS = {
    "Anomaly_Train.txt": "Abuse/Abuse001_x264.mp4\n"
    "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n",
    "Anomaly_Test.txt": "Abuse/Abuse028_x264.mp4\n"
    "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\n\n",
    "Temporal_Anomaly_Annotation_for_Testing_Videos.txt": "Abuse028_x264.mp4  Abuse  165  240  300 "
    " 310  \nNormal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  \n",
}


@pytest.fixture
def root(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "splits").mkdir()
    for name, content in LISTS.items():
        (tmp_path / "splits" / name).write_text(content)
    return tmp_path


def _import(root, **options):
    """Imports the folder into its videos.json, and returns the summary."""
    return import_truth(TruthImport(truth=str(root), out=str(root / "videos.json"), **options))


def _listed(root):
    (root / "videos.json").unlink(missing_ok=True)
    _import(root)
    return json.loads((root / "videos.json").read_text())["videos"]


def test_lists_and_folders_become_a_videos_json(root):
    summary = _import(root)
    assert summary["train"] == {"normal": 1, "abnormal": 1} and not summary["as_published"]
    listed = annotations.load(root / "videos.json")
    assert all(listed.resolve(video).exists() for video in listed.videos.values())
    abuse = listed.videos["Abuse028"]
    # [start, end), as in the ground truth that circulates.
    assert [list(i) for i in abuse.abnormal_frames] == [[165, 240], [300, 310]]
    assert (abuse.cls, abuse.label, abuse.split) == ("Abuse", 1, "test")
    normal = listed.videos["Normal_Videos001"]
    assert (normal.cls, normal.label, normal.split) == ("Normal", 0, "train")
    assert list(listed.videos["Normal_Videos_003"].abnormal_frames) == []


def test_an_edited_list_is_not_overwritten(root):
    for _ in range(2):
        _import(root)
    edited = json.loads((root / "videos.json").read_text())
    edited["videos"]["Abuse028"]["num_frames"] = 1412
    (root / "videos.json").write_text(json.dumps(edited))
    with pytest.raises(UserError, match="videos.json: expected no list here yet"):
        _import(root)
    assert json.loads((root / "videos.json").read_text()) == edited


def test_what_is_missing_is_named(root):
    (root / FILES[0]).unlink()
    with pytest.raises(UserError, match=r"1 missing, 'Abuse001_x264.mp4'"):
        _listed(root)


def test_of_copies_the_listed_one_is_taken(root):
    """The archive repeats some normal videos in a folder of its own, and some lists."""
    copy = root / "Events" / "Normal_Videos001_x264.mp4"
    copy.parent.mkdir()
    copy.write_bytes(b"")
    (root / "Events" / "Anomaly_Train.txt").write_text("")
    listed = _listed(root)["Normal_Videos001"]
    assert listed["file"] in (FILES[2], "Events/Normal_Videos001_x264.mp4")
    copy.write_bytes(b"another video")
    with pytest.raises(UserError, match="of another size"):
        _listed(root)
    named = root / "Training_Normal_Videos_Anomaly" / copy.name
    named.parent.mkdir()
    named.write_bytes(b"the listed one")
    listed = _listed(root)["Normal_Videos001"]
    assert listed["file"] == "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Temporal_Anomaly_Annotation_for_Testing_Videos.txt", "x.mp4 Abuse 1\n", "line 1"),
        ("Temporal_Anomaly_Annotation_for_Testing_Videos.txt", "x.mp4\n", "line 1"),
        (
            "Temporal_Anomaly_Annotation_for_Testing_Videos.txt",
            "Abuse028_x264.mp4 Abuse -1 -1 -1 -1\nNormal_Videos_003_x264.mp4 Normal -1 -1 -1 -1",
            "expected frames of Abuse in Abuse028_x264.mp4, found none",
        ),
        ("Temporal_Anomaly_Annotation_for_Testing_Videos.txt", "x.mp4 Abuse 9 3\n", "line 1"),
        ("Temporal_Anomaly_Annotation_for_Testing_Videos.txt", "x.mp4 Abuse 1 3\n", "a line for"),
    ],
)
def test_a_wrong_line_is_named(root, name, content, message):
    (root / "splits" / name).write_text(content)
    with pytest.raises(UserError, match=message):
        _listed(root)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_copies_may_differ_in_line_ends_and_byte_order_marks(root, start, end):
    expected = _listed(root)
    for name, content in LISTS.items():
        copy = root / "Events" / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(start + content.encode().replace(b"\n", end))
    assert _listed(root) == expected
    for name in LISTS:
        (root / "splits" / name).unlink()
    assert _listed(root) == expected


def test_a_missing_list_is_named(root):
    (root / "splits" / "Anomaly_Test.txt").unlink()
    with pytest.raises(UserError, match="Anomaly_Test.txt"):
        _listed(root)


def test_features_do_without_videos(root):
    for name in FILES:
        (root / name).unlink()
    listed = _listed(root)
    assert listed["Abuse028"]["file"] == "Abuse/Abuse028_x264.mp4"
    assert list(listed) == ["Abuse001", "Normal_Videos001", "Abuse028", "Normal_Videos_003"]


def test_intervals_may_count_from_1(root):
    _import(root, intervals="inclusive")
    listed = annotations.load(root / "videos.json").videos
    assert listed["Abuse028"].abnormal_frames == ((164, 240), (299, 310))


def test_files_are_relative_to_the_list(root):
    out = root.parent / "elsewhere.json"
    import_truth(TruthImport(truth=str(root), out=str(out)))
    listed = annotations.load(out)
    assert all(listed.resolve(video).exists() for video in listed.videos.values())
