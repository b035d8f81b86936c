"""Ground truth as it circulates: a small data set of four test videos in every format."""

import json
import pathlib
import pickle
import subprocess

import cv2
import numpy as np
import pytest
import scipy.io

from gvvad_jax import evaluation
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from tests.support.started import python
from tools.importing import truth
from tools.importing.truth import TruthImport, import_truth

PED2 = pathlib.Path(__file__).parents[4] / "shared" / "data" / "ped2" / "ground_truth.json"
# Frames and abnormal [start, end) of each test video, in the order of the list.
VIDEOS = {
    "Abuse028": (37, ((5, 20), (30, 37))),
    "Explosion002": (64, ((16, 17),)),
    "Normal_Videos_003": (50, ()),
    "Normal_Videos_006": (16, ()),
}
NAMES = {
    "Abuse028": "Abuse/Abuse028_x264.mp4",
    "Explosion002": "Explosion/Explosion002_x264.mp4",
    "Normal_Videos_003": "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4",
    "Normal_Videos_006": "Testing_Normal_Videos_Anomaly/Normal_Videos_006_x264.mp4",
}
INTERVALS = {name: [list(pair) for pair in events] for name, (_, events) in VIDEOS.items()}


def _labels(name, length=None):
    frames, events = VIDEOS[name]
    labels_F = np.zeros(frames, np.float32)
    for start, end in events:
        labels_F[start:end] = 1
    length = frames if length is None else length
    return np.concatenate([labels_F, np.repeat(labels_F[-1:], 16)])[:length]


def _rounded(up):
    return {name: -(-frames // 16) * 16 if up else frames // 16 * 16
            for name, (frames, _) in VIDEOS.items()}  # fmt: skip


@pytest.fixture
def listed(tmp_path):
    """A list with frame counts, and one without."""
    lines = [f"{NAMES[name]},{frames}" for name, (frames, _) in VIDEOS.items()]
    (tmp_path / "frames_test.csv").write_text("path,num_frames\n" + "\n".join(lines) + "\n")
    (tmp_path / "test.list").write_text("\n".join(NAMES.values()) + "\n")
    return tmp_path


def _import(tmp_path, name, listed="frames_test.csv", **options):
    lists = {"list": str(tmp_path / listed)} if listed else {}
    return import_truth(
        TruthImport(
            truth=str(tmp_path / name), out=str(tmp_path / "videos.json"), **lists, **options
        )
    )


def _check(tmp_path, frames=True):
    """The written list has every interval, and perfect scores are perfect."""
    videos = annotations.load(tmp_path / "videos.json").videos
    assert {i: [list(p) for p in v.abnormal_frames] for i, v in videos.items()} == INTERVALS
    assert {i: v.label for i, v in videos.items()} == {
        i: int(bool(e)) for i, e in INTERVALS.items()
    }
    if frames:
        assert {i: v.num_frames for i, v in videos.items()} == {
            i: n for i, (n, _) in VIDEOS.items()
        }
    np.savez(tmp_path / "scores.npz", **{name: _labels(name) for name in VIDEOS})
    measures = evaluation.measure_files(str(tmp_path / "scores.npz"), str(tmp_path / "videos.json"))
    assert (measures["auc"], measures["ap"], measures["auc_abnormal"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", ["_x264.mp4", ".mp4", "_x264"])
@pytest.mark.parametrize("convention", ["raw", "up", "down"])
def test_a_concatenated_array_is_cut_by_its_convention(listed, convention, suffix, start, end):
    text = (listed / "frames_test.csv").read_text().replace("_x264.mp4", suffix)
    (listed / "frames_test.csv").write_bytes(start + text.replace("\n", end).encode())
    lengths = {"raw": dict.fromkeys(VIDEOS), "up": _rounded(True), "down": _rounded(False)}
    pieces = [_labels(name, length) for name, length in lengths[convention].items()]
    np.save(listed / "gt.npy", np.concatenate(pieces))
    summary = _import(listed, "gt.npy")
    assert (summary["format"], summary["convention"]) == ("npy", convention)
    assert (summary["frames"], summary["abnormal_frames"]) == (167, 23)
    assert summary["test"] == {"normal": 2, "abnormal": 2}
    _check(listed)


@pytest.mark.parametrize("crops_first", [False, True])
def test_features_give_the_lengths_that_no_list_has(listed, crops_first):
    (listed / "features").mkdir()
    for name, length in _rounded(True).items():
        shape = (length // 16, 10, 4)
        shape = (10, length // 16, 4) if crops_first else shape
        np.save(listed / "features" / f"{name}_x264_i3d.npy", np.zeros(shape, np.float16))
    np.save(listed / "gt.npy", np.concatenate([_labels(n, s) for n, s in _rounded(True).items()]))
    summary = _import(listed, "gt.npy", "test.list", features=str(listed / "features"))
    assert (summary["convention"], summary["frames"]) == ("rows", 192)
    videos = annotations.load(listed / "videos.json").videos
    assert {i: v.num_frames for i, v in videos.items()} == _rounded(True)
    assert videos["Abuse028"].abnormal_frames == ((5, 20), (30, 48))


def test_a_length_that_fits_nothing_is_explained(listed):
    np.save(listed / "gt.npy", np.zeros(1_114_144))
    with pytest.raises(UserError) as error:
        _import(listed, "gt.npy")
    assert str(error.value) == (
        f"{listed}/gt.npy: expected 167 (one for each frame) or 192 (each video's frames rounded "
        "up to 16) or 160 (each video's frames rounded down to 16) for the 4 test videos of "
        f"{listed}/frames_test.csv, found 1114144 labels, the length of UCF-Crime's ground truth "
        "with each video's frames rounded up to 16; give the list that it was made by (--list), in "
        "its order, and all its test videos"
    )
    with pytest.raises(UserError, match=r"expected the list of the test videos .* give --list"):
        _import(listed, "gt.npy", None)
    with pytest.raises(UserError, match=r"the length of each of the 4 test .* \(--features\)"):
        _import(listed, "gt.npy", "test.list")
    np.save(listed / "gt.npy", np.zeros(117))
    with pytest.raises(UserError, match="it fits without 'Normal_Videos_003'"):
        _import(listed, "gt.npy")
    assert not (listed / "videos.json").exists()


def test_an_order_that_names_contradict_is_refused(listed):
    np.save(listed / "gt.npy", np.concatenate([_labels(name) for name in reversed(VIDEOS)]))
    with pytest.raises(
        UserError, match=r"'Normal_Videos_\d+': expected no abnormal frame, because"
    ):
        _import(listed, "gt.npy")


def test_the_frame_that_tad_marks_in_normal_videos_is_normal(listed, capsys):
    marked = {name: _labels(name) for name in VIDEOS}
    for name in ("Normal_Videos_003", "Normal_Videos_006"):
        marked[name][0] = 1
    np.save(listed / "gt.npy", np.concatenate(list(marked.values())))
    _import(listed, "gt.npy")
    assert "one frame of every normal video is marked, as in TAD's" in capsys.readouterr().err
    _check(listed)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "content",
    [
        {name: _labels(name) for name in VIDEOS},
        {NAMES[name]: _labels(name).tolist() for name in VIDEOS},
        {"gt": {name: _labels(name).astype(bool) for name in VIDEOS}},
        {name: _labels(name, n) for name, n in _rounded(True).items()},
        [_labels(name) for name in VIDEOS],
        {name: np.array(events).reshape(-1, 2) for name, (_, events) in VIDEOS.items()},
        np.concatenate([_labels(name) for name in VIDEOS]),
        np.array([_labels(name) for name in VIDEOS], dtype=object),
    ],
)
def test_pickles_of_arrays(listed, content, protocol):
    (listed / "gt.pickle").write_bytes(pickle.dumps(content, protocol))
    assert _import(listed, "gt.pickle")["format"] == "pickle"
    _check(listed)


def test_arrays_by_name_in_npz_and_objects_in_npy(listed):
    np.savez(listed / "gt.npz", **{name: _labels(name) for name in VIDEOS})
    _import(listed, "gt.npz")
    _check(listed)
    (listed / "videos.json").unlink()
    objects = np.array([_labels(name) for name in VIDEOS], dtype=object)
    np.save(listed / "gt.npy", objects, allow_pickle=True)
    _import(listed, "gt.npy")
    _check(listed)


@pytest.mark.parametrize("as_labels", [False, True])
def test_a_mat_of_cells_counts_from_1(listed, as_labels):
    cells = np.empty((1, len(VIDEOS)), object)
    for index, (name, (_, events)) in enumerate(VIDEOS.items()):
        starts_ends = np.array([[s + 1 for s, _ in events], [e for _, e in events]], np.uint16)
        cells[0, index] = _labels(name) if as_labels else starts_ends
    scipy.io.savemat(listed / "ped2.mat", {"gt": cells})
    _import(listed, "ped2.mat")
    _check(listed)


def test_avenues_masks_in_mat_files(listed):
    (listed / "masks").mkdir()
    for number, name in enumerate(VIDEOS, 1):
        cells = np.empty((1, VIDEOS[name][0]), object)
        for frame, label in enumerate(_labels(name)):
            cells[0, frame] = np.full((3, 4), int(label), np.uint8)
        scipy.io.savemat(listed / "masks" / f"{number}_label.mat", {"volLabel": cells})
    summary = _import(listed, "masks", None)
    assert summary["format"] == "mat" and summary["frames"] == 167
    videos = annotations.load(listed / "videos.json").videos
    assert list(videos) == ["1", "2", "3", "4"]
    assert videos["1"].abnormal_frames == ((5, 20), (30, 37))


@pytest.mark.parametrize("kind", ["frames", "pixels", "images"])
def test_a_folder_of_masks(listed, kind):
    folder = listed / "masks"
    folder.mkdir()
    for name in VIDEOS:
        labels_F = _labels(name).astype(np.uint8)
        masks = np.zeros((len(labels_F), 6, 8), np.uint8)
        masks[:, 2, 3] = 255 * labels_F
        if kind == "images":
            (folder / f"{name}_gt").mkdir()
            for number, mask in enumerate(masks, 1):
                cv2.imwrite(str(folder / f"{name}_gt" / f"{number:03d}.bmp"), mask)
        else:
            np.save(folder / f"{name}.npy", labels_F if kind == "frames" else masks)
    assert _import(listed, "masks")["format"] == "masks"
    _check(listed)


def test_ucf_crimes_text(listed):
    lines = [
        f"{NAMES[name].rpartition('/')[2]}  {NAMES[name].partition('/')[0]}  "
        + "  ".join(str(n) for pair in [*events, (-1, -1), (-1, -1)][:2] for n in pair)
        for name, (_, events) in VIDEOS.items()
    ]
    (listed / "annotations.txt").write_text("  \n".join(lines))
    summary = _import(listed, "annotations.txt", "test.list")
    assert (summary["format"], summary["frames"]) == ("ucf", None)
    _check(listed, frames=False)
    videos = annotations.load(listed / "videos.json").videos
    assert videos["Abuse028"].cls == "Abuse" and videos["Abuse028"].file == NAMES["Abuse028"]


XD = {
    "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6": [[122, 200], [300, 410]],
    "v=8cTqh9tMz_I__#1_label_A": [],
}


@pytest.mark.parametrize("crops", ["", "__0", "_all"])
def test_xd_violences_text_and_names(tmp_path, crops):
    (tmp_path / "annotations.txt").write_text(f"{next(iter(XD))} 122 200 300 410\n")
    numbers = range(5) if crops == "_all" else [crops]
    lines = [
        f"list/xx/{name}{f'__{n}' if crops == '_all' else n}.npy" for name in XD for n in numbers
    ]
    (tmp_path / "test.list").write_text("\n".join(lines))
    (tmp_path / "train.list").write_text("a_label_B4-0-0__0.npy\nb_label_A__0.npy\n")
    lists = f"{tmp_path / 'test.list'},{tmp_path / 'train.list'}"
    request = TruthImport(
        truth=str(tmp_path / "annotations.txt"), list=lists, out=str(tmp_path / "videos.json")
    )
    summary = import_truth(request)
    assert summary["format"] == "xd" and summary["train"] == {"normal": 1, "abnormal": 1}
    videos = annotations.load(tmp_path / "videos.json").videos
    assert list(videos) == [*XD, "a_label_B4-0-0", "b_label_A"]
    assert [[list(p) for p in videos[name].abnormal_frames] for name in XD] == list(XD.values())
    assert [video.cls for video in videos.values()] == ["Explosion", None, "Riot", None]


def test_shanghaitechs_single_crops_and_labels_of_a_list(tmp_path):
    lines = [f"01_00{n}_{crop}.npy,{n == 1:d}" for n in (1, 2) for crop in range(10)]
    (tmp_path / "test.csv").write_text("path,label\n" + "\n".join(lines))
    for number, event in (("1", [0, 1, 1, 0]), ("2", [0, 0, 0])):
        np.save(tmp_path / f"01_00{number}.npy", event)
    request = {"truth": str(tmp_path), "list": str(tmp_path / "test.csv")}
    import_truth(TruthImport(out=str(tmp_path / "v.json"), format="masks", **request))
    videos = annotations.load(tmp_path / "v.json").videos
    assert {i: (v.label, v.abnormal_frames) for i, v in videos.items()} == {
        "01_001": (1, ((1, 3),)),
        "01_002": (0, ()),
    }


@pytest.mark.parametrize("to", ["activitynet", "fiftyone", "cvat"])
def test_what_annotation_tools_take_comes_back(listed, to):
    np.savez(listed / "gt.npz", **{name: _labels(name) for name in VIDEOS})
    _import(listed, "gt.npz", fps=30.0)
    before = (listed / "videos.json").read_bytes()
    suffix = {"cvat": "", "activitynet": ".json", "fiftyone": ".json"}[to]
    exported = listed / f"exported{suffix}"
    request = TruthImport(truth=str(listed / "videos.json"), to=to, out=str(exported))
    import_truth(request)
    (listed / "videos.json").unlink()
    # FiftyOne and CVAT have no lengths, paths and splits of their own: the list has.
    _import(listed, exported.name, None if to == "activitynet" else "frames_test.csv", fps=30.0)
    _check(listed)
    assert (listed / "videos.json").read_bytes() == before
    content = json.loads(exported.read_text()) if suffix else None
    if to == "activitynet":
        video = content["database"]["Abuse028"]
        assert video["annotations"][0] == {"segment": [5 / 30, 20 / 30], "label": "Abuse"}
        assert video["subset"] == "testing" and video["duration"] == 37 / 30
    elif to == "fiftyone":
        assert content["labels"]["Abuse028"][0] == {"label": "Abuse", "support": [6, 20]}
        assert content["labels"]["Normal_Videos_003"] == []
    else:
        assert (exported / "Explosion002.xml").read_text().count('<tag label="Explosion"') == 1
        with pytest.raises(UserError, match="expected an absent or empty folder"):
            import_truth(request)


def test_activitynets_seconds_need_a_rate(tmp_path):
    database = {"v_1": {"subset": "validation", "duration": 10.0,
                        "annotations": [{"segment": [1.0, 2.5], "label": "Fighting"}]},
                "v_2": {"subset": "testing", "annotations": []}}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    with pytest.raises(UserError, match="'v_1': expected the frame rate of its seconds.* --fps"):
        _import(tmp_path, "a.json", None)
    assert _import(tmp_path, "a.json", None, fps=25)["format"] == "activitynet"
    videos = annotations.load(tmp_path / "videos.json").videos
    assert videos["v_1"].abnormal_frames == ((25, 62),) and videos["v_1"].num_frames == 250
    assert (videos["v_1"].split, videos["v_1"].cls, videos["v_2"].label) == (
        "validation", "Fighting", 0,
    )  # fmt: skip


def test_fiftyones_classes_and_timestamps(tmp_path):
    content = {
        "classes": ["normal", "Fall"],
        "labels": {
            "a": [{"label": 1, "timestamps": [1.0, 2.0]}, {"label": 0, "support": [1, 10]}],
            "b": [],
        },
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    _import(tmp_path, "labels.json", None, fps=10)
    videos = annotations.load(tmp_path / "videos.json").videos
    assert videos["a"].abnormal_frames == ((10, 20),) and videos["a"].cls == "Fall"
    assert videos["b"].label == 0


CVAT_TRACKS = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>4</id><name>clip</name><size>90</size>
</task><source>Abuse028_x264.mp4</source></meta>
<track id="0" label="Abuse"><box frame="10" outside="0" xtl="0" ytl="0" xbr="1" ybr="1"/>
<box frame="11" outside="0"/><box frame="30" outside="1"/></track>
<track id="1" label="Normal"><box frame="0" outside="0"/></track></annotations>"""


def test_cvats_tracks(tmp_path):
    (tmp_path / "a.xml").write_text(CVAT_TRACKS)
    _import(tmp_path, "a.xml", None)
    video = annotations.load(tmp_path / "videos.json").videos["Abuse028"]
    assert (video.abnormal_frames, video.num_frames, video.cls) == (((10, 30),), 90, "Abuse")


def test_entities_in_xml_are_refused(tmp_path):
    bomb = CVAT_TRACKS.replace("<annotations>", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>')
    for encoding in ("utf-8", "utf-16"):
        text = bomb.replace('encoding="utf-8"', f'encoding="{encoding}"')
        (tmp_path / "a.xml").write_bytes(text.encode(encoding))
        with pytest.raises(UserError, match="a document type, which CVAT doesn't write"):
            _import(tmp_path, "a.xml", None)


def test_labels_of_other_videos_are_reported_and_missing_ones_refused(listed, capsys):
    labels = {name: _labels(name) for name in VIDEOS}
    np.savez(listed / "gt.npz", **labels, Arson003=np.ones(5))
    _import(listed, "gt.npz")
    assert "1 videos aren't in" in capsys.readouterr().err
    np.savez(listed / "gt.npz", **{k: v for k, v in labels.items() if k != "Abuse028"})
    with pytest.raises(UserError, match="abnormal test video of .* none of 1, 'Abuse028' first"):
        _import(listed, "gt.npz")
    np.savez(listed / "gt.npz", other=np.ones(5))
    with pytest.raises(UserError, match="such as 'Abuse028', found others, such as 'other'"):
        _import(listed, "gt.npz")
    np.savez(listed / "gt.npz", **labels | {"Abuse028": np.ones(3)})
    with pytest.raises(UserError, match="expected 37 labels as its list says, .* found 3: these "):
        _import(listed, "gt.npz")


@pytest.mark.parametrize("to", ["videos", "activitynet", "cvat"])
def test_the_command_prints_one_object_and_one_line(listed, to):
    np.savez(listed / "gt.npz", **{name: _labels(name) for name in VIDEOS})
    command = [*python(), "-m", "tools.import_truth", f"--truth={listed / 'gt.npz'}",
               f"--list={listed / 'frames_test.csv'}", f"--to={to}", "--fps=25",
               f"--out={listed / 'out'}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["to"] == to
    done = subprocess.run([*command, "--format=mat"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.skipif(not PED2.exists(), reason="the real ground truth of Ped2 isn't here")
@pytest.mark.parametrize("convention", ["raw", "up", "down"])
def test_ped2s_real_ground_truth(tmp_path, convention):
    """As one array of 3,000, 3,200 or 2,912 labels."""
    real = annotations.load(PED2)
    tested = {i: v for i, v in real.videos.items() if v.split == "test"}
    size = {"raw": 1, "up": 16, "down": 16}[convention]
    pieces = []
    for video in tested.values():
        labels_F = annotations.frame_labels(video, video.num_frames)
        whole = video.num_frames // size if convention == "down" else -(-video.num_frames // size)
        pieces.append(np.pad(labels_F, (0, 16), "edge")[: whole * size])
    np.save(tmp_path / "gt.npy", np.concatenate(pieces))
    summary = _import(tmp_path, "gt.npy", PED2)
    assert sum(map(len, pieces)) == {"raw": 3000, "up": 3200, "down": 2912}[convention]
    assert (summary["convention"], summary["frames"]) == (convention, 3000)
    written = annotations.load(tmp_path / "videos.json").videos
    expected = {i: v.abnormal_frames for i, v in tested.items()}
    if convention == "down":  # The frames after the last snippet aren't known.
        expected = {i: e for i, e in expected.items() if tested[i].num_frames % 16 == 0}
    assert {i: written[i].abnormal_frames for i in expected} == expected


def test_a_format_is_told_by_content(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="a.json: expected a ground truth of a known format"):
        truth.detect(str(tmp_path / "a.json"))
    with pytest.raises(UserError, match="absent: expected a ground truth, found none"):
        truth.detect(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="--truth: expected a path"):
        TruthImport(out="x")
