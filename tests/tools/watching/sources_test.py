"""What a command line of videos names, and how outputs are called."""

import json
import os
import pathlib

import pytest

from gvvad_jax.command import UserError
from tools.watching import sources
from tools.watching.sources import VideoFile, output_name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """cam/a.mp4, cam/day/b.AVI and what is none of a video's, with a file outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("cam/a.mp4", "cam/day/b.AVI", "cam/notes.txt", "cam/.hidden/c.mp4", "out.mp4",
                 "cam/._a.mp4", "other/a.mp4"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def named(arguments, **options):
    return [str(video.path) for video in sources.find(arguments, **options)]


def test_files_folders_and_globs_each_name_a_video_once_in_order(folder):
    assert named(["cam"]) == ["cam/a.mp4", "cam/day/b.AVI"]
    assert named(["out.mp4", "cam", "./cam/a.mp4"]) == ["out.mp4", "cam/a.mp4", "cam/day/b.AVI"]
    assert named(["cam/**/*.AVI"]) == ["cam/day/b.AVI"]
    assert named(["*/a.mp4"]) == ["cam/a.mp4", "other/a.mp4"]
    assert named(["cam/d*"]) == ["cam/day/b.AVI"]
    # A file that is named itself may have any ending, and a name that would be a pattern.
    assert named(["cam/notes.txt"]) == ["cam/notes.txt"]
    (folder / "x[1].mp4").write_bytes(b"")
    (folder / "x1.mp4").write_bytes(b"")
    assert named(["x[1].mp4"]) == ["x[1].mp4"]


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("nothing.mp4", "nothing.mp4: expected a video, a folder, a list or a glob, found nothing"),
        ("*.mkv", "*.mkv: expected a video, a folder, a list or a glob, found nothing there"),
        (
            "empty",
            "empty: expected videos (.3gp, .asf, .avi, .dav, .flv, .h264 ...) in it or below",
        ),
    ],
)
def test_what_names_no_video_is_said_in_one_line(folder, argument, problem):
    (folder / "empty").mkdir()
    with pytest.raises(UserError) as error:
        sources.find([argument])
    assert str(error.value).startswith(problem) and "\n" not in str(error.value)


def test_a_folder_with_a_list_says_so(folder):
    (folder / "frames").mkdir()
    (folder / "frames" / "videos.json").write_text("{}")
    with pytest.raises(UserError, match=r"name the list frames/videos\.json"):
        sources.find(["frames"])
    with pytest.raises(UserError, match="VIDEO: expected a file, a folder or a source, found none"):
        sources.find([])


def test_a_link_in_a_folder_does_not_lead_out_of_it(folder):
    (folder / "cam/inside.mp4").symlink_to("a.mp4")
    (folder / "cam/outside.mp4").symlink_to(folder / "out.mp4")
    (folder / "cam/up").symlink_to(folder / "other")
    # The link inside is the same file as cam/a.mp4.
    assert named(["cam"]) == ["cam/a.mp4", "cam/day/b.AVI"]
    # What the command line itself names may be a link.
    assert named(["cam/outside.mp4"]) == ["cam/outside.mp4"]


def entries(*files):
    return {"fps": 10, "videos": {f"v{n}": {"file": file, "label": 1, "split": "test",
            "abnormal_frames": [[5, 9]]} for n, file in enumerate(files)}}  # fmt: skip


def test_a_list_brings_its_truth_and_stays_in_its_folder(folder):
    (folder / "cam/list.json").write_text(json.dumps(entries("a.mp4", "day/b.AVI")))
    first, second = sources.find(["cam/list.json"])
    assert first.path == folder / "cam/a.mp4" and second.path == folder / "cam/day/b.AVI"
    assert first.annotation.abnormal_frames == ((5, 9),) and first.given == "cam/list.json: v0"
    for outside in ("../out.mp4", str(folder / "out.mp4"), "day/../../out.mp4"):
        (folder / "cam/list.json").write_text(json.dumps(entries(outside)))
        with pytest.raises(UserError, match="expected a file inside the json's folder"):
            sources.find(["cam/list.json"])


def test_annotations_are_matched_by_file_and_else_by_name(folder):
    content = entries("a.mp4", "day/b.AVI")
    content["videos"]["out"] = content["videos"].pop("v1")
    (folder / "cam/list.json").write_text(json.dumps(content))
    found = sources.find(["cam/a.mp4", "out.mp4", "other/a.mp4"], "cam/list.json")
    assert [v.annotation and v.annotation.id for v in found] == ["v0", "out", None]
    with pytest.raises(UserError, match="expected entries of the videos at hand, found none"):
        sources.find(["other/a.mp4"], "cam/list.json")


def test_outputs_of_one_name_get_names_of_their_own(folder):
    taken = {}
    files = ["cam/a.mp4", "other/a.mp4", "A.mp4", "a.avi", "a"]
    videos = [VideoFile(path=pathlib.Path(name), given=name) for name in files]
    names = [output_name(video, taken) for video in videos]
    assert names[0] == "a" and len({name.casefold() for name in names}) == 5
    assert all(name.casefold().startswith("a-") for name in names[1:])
    # The same files have the same names when the command is repeated, in another order too.
    assert [output_name(video, taken) for video in reversed(videos)] == names[::-1]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("Überfall 3", "Überfall 3"),
        ("..", "video"),
        ("a/../b", "a_.._b"),
        ('<b>"x"?#%', "_b__x____"),
        (".hidden", "hidden"),
        ("line\nbreak\x00", "line_break_"),
        ("é" * 90, "é" * 50),
        ("\udcff", "_"),
        ("-rf", "-rf"),
    ],
)
def test_names_of_outputs_are_plain(stem, name):
    assert sources.plain_name(stem) == name
    assert os.sep not in name and len(name.encode()) <= 100
