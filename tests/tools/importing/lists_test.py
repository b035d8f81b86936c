"""Lists in the forms in which they circulate."""

import pytest

from gvvad_jax.command import UserError
from tools.importing import lists

NAMES = ["Abuse028", "Normal_Videos_003"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    "form", ["{}", "{}_x264.mp4", "/a b/{}_x264_i3d.npy", "dir\\{}.npy", "{}_x264.mp4 900 1"]
)
def test_all_forms_are_the_same_list(tmp_path, form, mark, end):
    path = tmp_path / "test.list"
    path.write_bytes(mark + "".join(form.format(name) + end for name in NAMES).encode())
    entries = lists.read(path)
    assert [lists.video_id(entry.path) for entry in entries] == NAMES
    assert [entry.num_frames for entry in entries] == [900 if "900" in form else None] * 2


@pytest.mark.parametrize(
    ("line", "path", "label", "cls", "num_frames"),
    [
        ("01_0014,0", "01_0014", 0, None, None),
        ("01_0014 1", "01_0014", 1, None, None),
        ("01_0014.mp4 1500", "01_0014.mp4", None, None, 1500),
        ("/x/A__0.npy,B1-B2-0", "/x/A__0.npy", 1, "Fighting", None),
        ("/x/A__0.npy,A", "/x/A__0.npy", 0, None, None),
        ("a\tNormal\t300", "a", 0, None, 300),
        ('"a, b.npy",Arson', "a, b.npy", 1, "Arson", None),
        # The number of a class is no number of frames.
        ("a.mp4 2820 4", "a.mp4", None, None, 2820),
        ("Abuse028_x264.mp4  Abuse  165  240  -1  -1", "Abuse028_x264.mp4", 1, "Abuse", None),
    ],
)
def test_columns_are_told_by_their_values(tmp_path, line, path, label, cls, num_frames):
    (tmp_path / "list").write_text(line)
    [entry] = lists.read(tmp_path / "list")
    assert (entry.path, entry.label, entry.cls) == (path, label, cls)
    assert entry.num_frames == num_frames


def test_a_header_names_columns(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("label,Path,frames,fps,subset\nAbuse,a.npy,320,30,Testing\n")
    [entry] = lists.read(path)
    assert entry == lists.Entry("a.npy", 2, 1, "Abuse", "test", 320, 30.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"path,label\n",
        b"\xff\xfe",
        b"path,frames\na,0\n",
        b"path,fps\na,x\n",
        b"path,split\na,some\n",
    ],
)
def test_what_is_no_list_is_refused_in_a_line(tmp_path, content):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(UserError, match="expected") as error:
        lists.read(tmp_path / "list")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Abuse028_x264_i3d.npy", (1, "Abuse")),
        ("RoadAccidents002_x264__7.npy", (1, "RoadAccidents")),
        ("Training_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4", (0, None)),
        ("v=8cTqh9tMz_I__#1_label_A.npy", (0, None)),
        ("Bad.Boys.II.2003__#00-08-44_00-09-09_label_B2-0-0__4.npy", (1, "Shooting")),
        ("x__#1_label_G-B2-0.npy", (1, "Explosion")),
        ("abnormal/17.npy", (1, None)),
        ("01_0014_i3d.npy", None),
        # A word of another meaning.
        ("normality/17.npy", None),
    ],
)
def test_names_say_labels(path, label):
    assert lists.label_in_name(path) == label


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("UCF_Train_ten_crop_i3d/Abuse001.npy", "train"),
        ("train/UCF_Test/a.npy", "test"),
        ("ucf_CLIP_rgbtest.csv", "test"),
        ("val/a.npy", "validation"),
        ("contest/a.npy", None),
        ("all/a.npy", None),
    ],
)
def test_names_say_splits(path, split):
    assert lists.split_in_name(path) == split
