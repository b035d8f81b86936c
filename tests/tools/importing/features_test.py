"""Features in every circulating layout become the same store."""

import json
import pathlib
import subprocess

import numpy as np
import pytest

from gvvad_jax import scoring, training
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.store.reader import Store
from tests.support import circulating, killing
from tests.support.circulating import CROPS, DIM, TEXT_DIM, features, frames
from tests.support.started import python
from tools.importing.features import FeatureImport, import_features


@pytest.fixture
def videos_json(tmp_path):
    return str(circulating.video_list(tmp_path / "videos.json", suffix="_x264"))


def imported(tmp_path, flags, **more):
    store = tmp_path / "store"
    done = import_features(FeatureImport(out=str(store), **{"encoder": "i3d"} | flags | more))
    return Store(store), done


@pytest.mark.parametrize("name", circulating.LAYOUTS)
def test_every_layout_is_told_and_read(name, tmp_path, videos_json):
    flags = circulating.LAYOUTS[name](tmp_path / "set")
    store, done = imported(tmp_path, flags, annotations=videos_json)
    assert done["videos"] == {
        "train": {"normal": 3, "abnormal": 3},
        "test": {"normal": 2, "abnormal": 2},
    }
    assert len(store) == 10
    for split in ("train", "test"):
        for key, rows in features(split).items():
            video = store[f"{key}_x264"]
            np.testing.assert_array_equal(video.visual_TxNxD, rows)
            assert video.row.num_frames == frames(rows)
            # Row k covers [16k, 16k + 16), though the last partial snippet has no row.
            starts = np.arange(len(rows)) * 16
            np.testing.assert_allclose(video.times_Tx2 * 30, np.stack([starts, starts + 16], 1))
    assert store["Abuse028_x264"].annotation.abnormal_frames == ((32, 64),)


@pytest.mark.parametrize("name", circulating.LAYOUTS)
def test_names_and_lists_say_labels_and_splits(name, tmp_path):
    store, done = imported(tmp_path, circulating.LAYOUTS[name](tmp_path / "set"))
    assert done["videos"]["train"] == {"normal": 3, "abnormal": 3}
    annotation = store["Abuse028"].annotation
    assert (annotation.label, annotation.split, annotation.cls) == (1, "test", "Abuse")
    assert store["Normal_Videos_010"].annotation.label == 0


def test_segments_of_training_videos_have_no_place_in_time(tmp_path, videos_json):
    flags = circulating.segmented(tmp_path / "set")
    store, done = imported(tmp_path, flags, annotations=videos_json)
    assert list(done["segments"].values()) == [32]
    assert store.manifest.snippet["alignment"] == "exact"
    assert store["Abuse001_x264"].visual_TxNxD.shape == (32, CROPS, DIM)
    assert store["Abuse028_x264"].row.num_frames == frames(features("test")["Abuse028"])


def test_segments_of_test_videos_share_its_time(tmp_path, videos_json):
    flags = circulating.one_crop(tmp_path / "set")
    store, _ = imported(tmp_path, flags, annotations=videos_json)
    assert store.manifest.snippet["alignment"] == "even"
    video = store["Abuse028_x264"]
    assert video.visual_TxNxD.shape == (200, 1, DIM)
    np.testing.assert_allclose(video.times_Tx2[-1], [199 / 200 * 85 / 30, 85 / 30])


def test_text_is_found_by_name_and_made_as_long_as_its_video(tmp_path, capsys):
    store, done = imported(tmp_path, circulating.tevad(tmp_path / "set"))
    assert done["text_dim"] == TEXT_DIM
    longer = np.load(tmp_path / "set/text/Abuse028_x264_emb.npy")
    np.testing.assert_array_equal(store["Abuse028"].text_TxE, longer[:-1])
    shorter = np.load(tmp_path / "set/text/Fighting033_x264_emb.npy")
    expected = np.concatenate([shorter, shorter[-1:]])
    np.testing.assert_array_equal(store["Fighting033"].text_TxE, expected)
    errors = capsys.readouterr().err
    assert "text of 4 videos has 1 or 2 rows more or fewer" in errors
    assert "lap does: OUT/bank.npy, an array [phrases, 6]" in errors


def test_ten_snippets_of_ten_crops_are_asked_about(tmp_path):
    for split in ("train", "test"):
        arrays = {name: rows[:1].repeat(10, 0) for name, rows in features(split).items()}
        circulating._save(tmp_path / "set" / split, arrays, "{}.npy".format)
    flags = {"visual": f"{tmp_path}/set/train,{tmp_path}/set/test"}
    with pytest.raises(UserError, match="--layout=TxNxD .* or --layout=NxTxD"):
        imported(tmp_path, flags)
    assert not (tmp_path / "store").exists()
    store, _ = imported(tmp_path, flags, layout="train=NxTxD,test=TxNxD")
    np.testing.assert_array_equal(
        store["Abuse028"].visual_TxNxD[3], features("test")["Abuse028"][0]
    )
    expected = features("train")["Abuse001"][0, 4]
    np.testing.assert_array_equal(store["Abuse001"].visual_TxNxD[4, 3], expected)


def test_frame_counts_decide_where_shapes_do_not(tmp_path, videos_json):
    # Test videos of 5 crops and 10 snippets, whose frames are known.
    content = json.loads(pathlib.Path(videos_json).read_text())
    for video in content["videos"].values():
        video["num_frames"] = 165
    pathlib.Path(videos_json).write_text(json.dumps(content))
    for split in ("train", "test"):
        arrays = {n: np.resize(r, (5, 10, DIM)) for n, r in features(split).items()}
        circulating._save(tmp_path / "set" / split, arrays, "{}.npy".format)
    flags = {"visual": f"{tmp_path}/set/train,{tmp_path}/set/test", "annotations": videos_json}
    store, done = imported(tmp_path, flags)
    assert set(done["layout"].values()) == {"NxTxD"}
    assert store["Abuse028_x264"].visual_TxNxD.shape == (10, 5, DIM)


def test_one_crop_of_all_is_taken_on_request(tmp_path):
    flags = circulating.vadclip(tmp_path / "set")
    # As VadCLIP's test list, which has one crop a video.
    path = tmp_path / "set/test.csv"
    lines = [line for line in path.read_text().split("\n") if "__5" in line or "path" in line]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="found 10 in .*1 in .*--crop=K"):
        imported(tmp_path, flags)
    store, _ = imported(tmp_path, flags, crop=5)
    for split in ("train", "test"):
        for key, rows in features(split).items():
            np.testing.assert_array_equal(store[key].visual_TxNxD, rows[:, 5:6])


def test_generated_videos_get_a_store_of_their_own(tmp_path):
    flags = circulating.rtfm(tmp_path / "set")
    circulating._save(tmp_path / "gen", features("train", seed=1), "{}_generated.npy".format)
    flags["visual"] += f",{tmp_path}/gen"
    store, done = imported(tmp_path, flags, synthetic="*_generated")
    assert len(store) == 10
    generated = Store(done["synthetic_out"])
    assert {video.row.source for video in generated.values()} == {"synthetic"}
    assert generated["Abuse001_generated"].annotation.split == "train"
    assert not generated.manifest.differences(store.manifest)
    listed = tmp_path / "generated.list"
    listed.write_text("".join(f"{name}_generated.npy\n" for name in features("train")))
    shared = flags | {"synthetic": str(listed), "out": str(tmp_path / "other"), "encoder": "i3d"}
    import_features(FeatureImport(**shared))
    assert list(Store(tmp_path / "other-synthetic")) == list(generated)
    with pytest.raises(UserError, match="--synthetic=none"):
        imported(tmp_path, flags, synthetic="none")


@pytest.mark.parametrize("abnormal_first", [(3, 2), (3,)])
def test_lists_that_begin_with_abnormal_videos(tmp_path, abnormal_first):
    for split, prefix in (("train", "01"), ("test", "02")):
        arrays = {f"{prefix}_{n:04d}": rows for n, rows in enumerate(features(split).values())}
        circulating._save(tmp_path / split, arrays, "{}_i3d.npy".format)
        (tmp_path / f"{split}.list").write_text("\n".join(f"/x/{name}.npy" for name in arrays))
    flags = {"visual": f"{tmp_path}/train.list,{tmp_path}/test.list", "root": str(tmp_path)}
    with pytest.raises(UserError, match="expected a label for each video, found 10"):
        imported(tmp_path, flags)
    if len(abnormal_first) == 1:
        with pytest.raises(UserError, match="a number for each of 2 sources"):
            imported(tmp_path, flags, abnormal_first=abnormal_first)
        return
    store, done = imported(tmp_path, flags, abnormal_first=abnormal_first)
    assert done["benchmark"] == "shanghaitech"
    assert [store[f"01_{n:04d}"].annotation.label for n in range(6)] == [1, 1, 1, 0, 0, 0]


def test_a_split_that_nothing_says_is_asked_for(tmp_path):
    circulating._save(tmp_path / "all", features("train"), "{}.npy".format)
    with pytest.raises(UserError, match="expected a split for each video.*--visual=train=PATH"):
        imported(tmp_path, {"visual": f"{tmp_path}/all"})


def test_float16_stays_and_float64_is_rounded(tmp_path, capsys):
    halves = {name: rows.astype(np.float16) for name, rows in features("train").items()}
    circulating._save(tmp_path / "train", halves, "{}.npy".format)
    store, _ = imported(tmp_path, {"visual": f"{tmp_path}/train"})
    assert store.manifest.dtype == "float16"
    doubles = {name: rows.astype(np.float64) for name, rows in features("train").items()}
    circulating._save(tmp_path / "b/train", doubles, "{}.npy".format)
    options = {"visual": f"{tmp_path}/b/train", "out": str(tmp_path / "double")}
    import_features(FeatureImport(**options))
    assert Store(tmp_path / "double").manifest.dtype == "float32"
    assert "float64 is rounded to float32" in capsys.readouterr().err


def test_an_event_that_passes_the_last_row_gives_the_length(tmp_path, videos_json):
    content = json.loads(pathlib.Path(videos_json).read_text())
    for video in content["videos"].values():
        del video["num_frames"]
    content["videos"]["Abuse028_x264"]["abnormal_frames"] = [[60, 85]]
    pathlib.Path(videos_json).write_text(json.dumps(content))
    store, done = imported(tmp_path, circulating.rtfm(tmp_path / "set"), annotations=videos_json)
    assert done["frame_counts_known"] == 0
    assert store["Abuse028_x264"].row.num_frames == 85
    assert store["Normal_Videos_010_x264"].row.num_frames == 16 * 7


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("import.json", ".lock")
    }


def test_the_same_command_resumes_and_reads_only_what_changed(tmp_path, videos_json):
    flags = circulating.rtfm(tmp_path / "set")
    store, done = imported(tmp_path, flags, annotations=videos_json)
    assert done["out_written"] == 10
    before = snapshot(store.path)
    assert imported(tmp_path, flags, annotations=videos_json)[1]["out_written"] == 0
    assert snapshot(store.path) == before
    changed = features("test")["Abuse028"] + 1
    np.save(tmp_path / "set/test/Abuse028_x264_i3d.npy", changed)
    store, done = imported(tmp_path, flags, annotations=videos_json)
    assert done["out_written"] == 1
    np.testing.assert_array_equal(store["Abuse028_x264"].visual_TxNxD, changed)


@pytest.mark.robustness
@pytest.mark.parametrize("count", [1, 3, 9, 30, 37])
def test_a_killed_import_resumes_to_the_same_store(count, tmp_path):
    flags = circulating.tevad(tmp_path / "set")
    expected, _ = imported(tmp_path, flags)
    command = [*python(), "-m", "tools.import_features", "--encoder=i3d",
               *(f"--{name}={value}" for name, value in flags.items()),
               f"--out={tmp_path}/killed"]  # fmt: skip
    killing.run(command, "*", count)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert snapshot(tmp_path / "killed") == snapshot(expected.path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*circulating.LAYOUTS, *circulating.SEGMENTED])
def test_a_layout_trains_and_is_measured(name, tmp_path, videos_json):
    make = (circulating.LAYOUTS | circulating.SEGMENTED)[name]
    store, _ = imported(tmp_path, make(tmp_path / "set"), annotations=videos_json)
    config = TrainConfig(
        store=str(store.path),
        workdir=str(tmp_path / "run"),
        detector="rtfm",
        feature_group="visual",
        segments=8,
        mtn_channels=4,
        head_widths=(8, 4),
        dropout=0.0,
        margin=17.0,
        batch_size=3,
        steps=20,
        learning_rate=0.01,
    )
    result = training.fit(config)
    measured = scoring.load(config.workdir, "last").evaluate(store)
    assert measured["auc"] == result.to_json()["last"]["auc"] > 0.5
    assert measured["frames"] == sum(frames(rows) for rows in features("test").values())
