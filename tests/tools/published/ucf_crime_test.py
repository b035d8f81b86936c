import json
import subprocess
import sys

import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from tools.published import ucf_crime

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


def test_lists_and_folders_become_a_videos_json(root):
    command = [sys.executable, "-m", "tools.list_ucf_crime", f"--root={root}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["train"] == {"normal": 1, "abnormal": 1} and not summary["as_published"]
    listed = annotations.load(root / "videos.json")
    assert all(listed.resolve(video).exists() for video in listed.videos.values())
    abuse = listed.videos["Abuse028_x264"]
    # Frames 165 to 240, counted from 1 and both included.
    assert [list(i) for i in abuse.abnormal_frames] == [[164, 240], [299, 310]]
    assert (abuse.cls, abuse.label, abuse.split) == ("Abuse", 1, "test")
    normal = listed.videos["Normal_Videos001_x264"]
    assert (normal.cls, normal.label, normal.split) == ("Normal", 0, "train")
    assert list(listed.videos["Normal_Videos_003_x264"].abnormal_frames) == []


def test_an_edited_list_is_not_overwritten(root):
    command = [sys.executable, "-m", "tools.list_ucf_crime", f"--root={root}"]
    for _ in range(2):
        subprocess.run(command, capture_output=True, check=True)
    edited = json.loads((root / "videos.json").read_text())
    edited["videos"]["Abuse028_x264"]["num_frames"] = 1412
    (root / "videos.json").write_text(json.dumps(edited))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "videos.json: expected no list here yet" in done.stderr
    assert json.loads((root / "videos.json").read_text()) == edited


def test_what_is_missing_is_named(root):
    (root / FILES[0]).unlink()
    with pytest.raises(UserError, match=r"1 missing, 'Abuse001_x264.mp4'"):
        ucf_crime.list_videos(root)


def test_of_copies_the_listed_one_is_taken(root):
    """The archive repeats some normal videos in a folder of its own, and some lists."""
    copy = root / "Events" / "Normal_Videos001_x264.mp4"
    copy.parent.mkdir()
    copy.write_bytes(b"")
    (root / "Events" / "Anomaly_Train.txt").write_text("")
    listed = ucf_crime.list_videos(root)["videos"]["Normal_Videos001_x264"]
    assert listed["file"] in (FILES[2], "Events/Normal_Videos001_x264.mp4")
    copy.write_bytes(b"another video")
    with pytest.raises(UserError, match="of another size"):
        ucf_crime.list_videos(root)
    named = root / "Training_Normal_Videos_Anomaly" / copy.name
    named.parent.mkdir()
    named.write_bytes(b"the listed one")
    listed = ucf_crime.list_videos(root)["videos"]["Normal_Videos001_x264"]
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
        ucf_crime.list_videos(root)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_copies_may_differ_in_line_ends_and_byte_order_marks(root, start, end):
    expected = ucf_crime.list_videos(root)
    for name, content in LISTS.items():
        copy = root / "Events" / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(start + content.encode().replace(b"\n", end))
    assert ucf_crime.list_videos(root) == expected
    for name in LISTS:
        (root / "splits" / name).unlink()
    assert ucf_crime.list_videos(root) == expected


def test_a_missing_list_is_named(root):
    (root / "splits" / "Anomaly_Test.txt").unlink()
    with pytest.raises(UserError, match="Anomaly_Test.txt"):
        ucf_crime.list_videos(root)
