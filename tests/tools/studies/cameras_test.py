"""The study of cameras: changed copies, splits, and the table of its measurements."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("cv2")

from generation.media import reading, writing
from gvvad_jax.command import UserError
from tools import study_cameras
from tools.studies import camera_runs, cameras
from tools.studies.cameras import ORIGINAL, CameraStudy


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Eight normal and eight abnormal videos; a few frames of one exist."""
    folder = tmp_path_factory.mktemp("cameras")
    videos = {
        f"v{label}{i}": {
            "file": "v.mp4", "label": label, "split": "train", "fps": 5, "num_frames": 6,
            "abnormal_frames": [[2, 4]] if label else [],
        } for label in (0, 1) for i in range(8)
    }  # fmt: skip
    frames = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), np.uint8)
    writing.write_video(folder / "v.mp4", frames, fps=5, crf=10)
    (folder / "videos.json").write_text(json.dumps({"videos": videos}))
    return CameraStudy(
        out=str(folder / "out"), footage="videos", videos=str(folder / "videos.json"),
        abnormal_train=4, normal_train=2,
    )  # fmt: skip


def test_cameras_change_pixels_and_re_encodings_do_not():
    image_HxWx3 = np.zeros((20, 40, 3), np.uint8)
    image_HxWx3[4:16, 8:32] = 200  # The middle 60 percent.
    rng = np.random.default_rng(0)
    zoomed = cameras.COPIES["zoomed"][1](image_HxWx3, rng)
    np.testing.assert_array_equal(zoomed, np.full((20, 40, 3), 200))
    night = cameras.COPIES["night"][1](np.full((200, 200, 3), 100, np.uint8), rng)
    assert night.mean() == pytest.approx(35, abs=0.2) and night.std() == pytest.approx(6, abs=0.2)
    for name in cameras.COMPRESSED:
        assert cameras.COPIES[name] == (int(name.removeprefix("crf")), cameras._same)


def test_copies_keep_labels_and_truth(study):
    originals = cameras.originals(study)
    path = cameras._copied(study, dataclasses.replace(
        originals, videos={"v10": originals.videos["v10"]}), "crf28")  # fmt: skip
    assert json.loads(path.read_text())["videos"] == {
        "crf28-v10": {"file": "crf28-v10.mp4", "label": 1, "split": "train", "fps": 5.0,
                      "num_frames": 6, "abnormal_frames": [[2, 4]]}
    }  # fmt: skip
    copy, original = (
        reading.read(each) for each in (path.parent / "crf28-v10.mp4", path.parents[3] / "v.mp4")
    )
    assert copy.frames_TxHxWx3.shape == original.frames_TxHxWx3.shape and copy.fps == 5
    assert not np.array_equal(copy.frames_TxHxWx3, original.frames_TxHxWx3)


def test_half_of_the_other_normal_videos_set_thresholds(study):
    splits = cameras.split(study, 3)
    by = {(label, split): sum(s == split and i[1] == str(label) for i, s in splits.items())
          for label in (0, 1) for split in ("train", "validation", "test")}  # fmt: skip
    assert by == {(0, "train"): 2, (0, "validation"): 3, (0, "test"): 3, (1, "train"): 4,
                  (1, "validation"): 0, (1, "test"): 4}  # fmt: skip
    assert splits == cameras.split(study, 3) != cameras.split(study, 4)
    listed = cameras.annotated(study, (ORIGINAL, "crf23"), splits)
    assert len(listed.videos) == 16 + 6
    copies = [i for i in listed.videos if i.startswith("crf23-")]
    assert sorted(copies) == sorted(f"crf23-{i}" for i, s in splits.items() if s == "train")


def test_fits_take_the_runs_own_statistics_once():
    fits = camera_runs._fits(2)
    assert fits[0] == (2, 0.0) and len(fits) == 1 + 2 * 4
    assert {count for count, _ in fits} == {1, 2}


def test_the_table_has_means_and_deviations_over_seeds():
    measured = [("x", 0.5), ("x", 0.7), ("y", 1.0), ("y", 1.0)]
    rows = [{"seed": str(i % 2), "target": name, "auc": str(auc)}
            for i, (name, auc) in enumerate(measured)]  # fmt: skip
    assert study_cameras.table(rows).split("\n") == [
        "| target | auc |",
        "| --- | --- |",
        "| x | 0.600 +- 0.141 |",
        "| y | 1.000 +- 0.000 |",
    ]


def test_a_study_of_videos_needs_them(tmp_path):
    with pytest.raises(UserError, match="--videos"):
        CameraStudy(out=str(tmp_path), footage="videos")
    with pytest.raises(UserError, match="--videos"):
        CameraStudy(out=str(tmp_path), other="o")
    other = CameraStudy(out=str(tmp_path), other="o", videos="v.json").others()
    assert [(n, s.footage, s.out, s.other) for n, s in other.items()] == [
        ("videos", "videos", "o", "")
    ]
