"""Faulty files: all are listed at once, and nothing is written."""

import os
import pathlib
import re
import tempfile
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store
from tests.support import circulating
from tests.support.circulating import CROPS, DIM, features
from tools.importing import encoders
from tools.importing.checks import FaultyFiles
from tools.importing.features import FeatureImport, import_features


def imported(tmp_path, flags, **more):
    options = {"encoder": "i3d", "out": str(tmp_path / "store")} | flags | more
    return import_features(FeatureImport(**options))


def kinds(faults):
    return sorted((fault.kind, pathlib.Path(fault.where).name) for fault in faults)


def test_all_faulty_files_are_listed_at_once(tmp_path):
    flags = circulating.rtfm(tmp_path / "set")
    train, test = tmp_path / "set/train", tmp_path / "set/test"
    rows = features("train")
    (train / "Abuse001_x264_i3d.npy").unlink()
    (train / "Fighting002_x264_i3d.npy").write_bytes(b"")
    content = (train / "Arson003_x264_i3d.npy").read_bytes()
    (train / "Arson003_x264_i3d.npy").write_bytes(content[:-100])
    swapped = features("test")["Normal_Videos_011"].transpose(1, 0, 2)
    np.save(test / "Normal_Videos_011_x264_i3d.npy", swapped)
    narrow = rows["Normal_Videos_002"][:, :, :-1]
    np.save(train / "Normal_Videos_002_x264_i3d.npy", narrow)
    bad = features("test")["Abuse028"]
    bad[3, 1, 2] = np.nan
    np.save(test / "Abuse028_x264_i3d.npy", bad)
    with open(tmp_path / "set/test.list", "a") as file:
        file.write("/home/author/test/Fighting033_x264_i3d.npy\n")
    with pytest.raises(FaultyFiles) as error:
        imported(tmp_path, flags)
    assert kinds(error.value.faults) == [
        ("duplicate", "Fighting033_x264_i3d.npy"),
        ("empty", "Fighting002_x264_i3d.npy"),
        ("missing", "train.list: line 1"),
        ("not finite", "Abuse028_x264_i3d.npy"),
        ("transposed", "Normal_Videos_011_x264_i3d.npy"),
        ("unreadable", "Arson003_x264_i3d.npy"),
        ("wrong width", "Normal_Videos_002_x264_i3d.npy"),
    ]
    assert "found 7 (1 duplicate, 1 empty, 1 missing, 1 not finite" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()
    done = imported(tmp_path, flags, skip_faulty=True)
    assert list(Store(tmp_path / "store")) == [
        "Fighting033",
        "Normal_Videos_001",
        "Normal_Videos_003",
        "Normal_Videos_010",
    ]
    assert done["left_out"] == 7


def test_crops_that_are_missing_or_of_other_lengths(tmp_path):
    flags = circulating.ur_dmu(tmp_path / "set")
    (tmp_path / "set/train/Abuse001_x264_3.npy").unlink()
    np.save(tmp_path / "set/train/Arson003_x264_2.npy", np.zeros((3, DIM), np.float32))
    with pytest.raises(FaultyFiles) as error:
        imported(tmp_path, flags)
    missing, short = error.value.faults
    assert (missing.kind, missing.where) == ("crops", "Abuse001_x264")
    assert missing.what == "expected crops 0 to 9, found 0, 1, 2, 4, 5, 6, 7, 8, 9"
    assert (short.kind, short.where) == ("crops", "Arson003_x264")
    assert short.what == "expected crops of one length, found 7, 7, 3, 7, 7, 7, 7, 7, 7, 7"


def test_lists_and_rows_that_contradict_each_other(tmp_path):
    flags = circulating.vadclip(tmp_path / "set")
    path = circulating.video_list(tmp_path / "videos.json")
    text = path.read_text().replace('"num_frames": 85', '"num_frames": 400')
    path.write_text(text.replace("Fighting033", "Stealing999"))
    csv = tmp_path / "set/test.csv"
    csv.write_text(csv.read_text().replace(".npy,Normal", ".npy,Arson"))
    with pytest.raises(FaultyFiles) as error:
        imported(tmp_path, flags, annotations=str(path))
    assert sorted(set(kinds(error.value.faults))) == [
        ("frames", "Abuse001_x264"),
        ("frames", "Abuse028_x264"),
        ("label", "Normal_Videos_010_x264"),
        ("label", "Normal_Videos_011_x264"),
        ("missing", "Stealing999"),
    ]
    assert not (tmp_path / "store").exists()


def test_text_that_does_not_fit(tmp_path):
    flags = circulating.tevad(tmp_path / "set")
    text = tmp_path / "set/text"
    (text / "Abuse001_x264_emb.npy").unlink()
    np.save(text / "Arson003_x264_emb.npy", np.zeros((4, 6), np.float32))
    np.save(text / "Abuse028_x264_emb.npy", np.zeros((5, 7), np.float32))
    with pytest.raises(FaultyFiles) as error:
        imported(tmp_path, flags)
    assert [fault.what for fault in error.value.faults] == [
        "expected [7, 6], found [4, 6]" if "Arson" in fault.where else
        "expected [5, 6], found [5, 7]" if "028" in fault.where else
        "expected one text array of that name, found 0"
        for fault in error.value.faults
    ]  # fmt: skip
    assert len(error.value.faults) == 3


@pytest.mark.parametrize(
    ("scale", "line"),
    [
        (1.0, "norm 2.8: the published margin .* --standardise=yes .* or with --margin=13"),
        (8.0, None),
        (None, "features are L2-normalised: .* train with --standardise=yes"),
        (0.0, "10 arrays hold zeros only"),
    ],
)
def test_norms_are_reported_with_the_flag_that_helps(tmp_path, scale, line, capsys):
    for split in ("train", "test"):
        arrays = {}
        for number, name in enumerate(features(split)):
            rows = np.random.default_rng((number, len(split))).normal(size=(6, CROPS, DIM))
            norms = np.linalg.norm(rows, axis=-1, keepdims=True)
            scaled = rows / norms * (1.0 if scale is None else 2.8 * scale)
            arrays[name] = scaled.astype(np.float32)
        circulating._save(tmp_path / split, arrays, "{}.npy".format)
    imported(tmp_path, {"visual": f"{tmp_path}/train,{tmp_path}/test"})
    errors = capsys.readouterr().err
    assert "norm of a feature:" in errors
    if line:
        assert re.search(line, errors), errors
    else:
        assert "standardise" not in errors


def test_an_encoder_that_saw_the_benchmark_is_refused(tmp_path, capsys):
    flags = circulating.rtfm(tmp_path / "set")
    with pytest.raises(UserError, match="--encoder=Holmes_VAU: .*never saw ucf-crime.*--allow_lea"):
        imported(tmp_path, flags, encoder="Holmes_VAU")
    assert not (tmp_path / "store").exists()
    imported(tmp_path, flags, encoder="Holmes_VAU", allow_leakage=True)
    assert "which is ucf-crime: numbers on it can't be compared" in capsys.readouterr().err
    imported(tmp_path, flags, encoder="holmes-vau", benchmark="ped2", out=str(tmp_path / "b"))
    imported(tmp_path, flags, encoder="mine", out=str(tmp_path / "c"))
    assert "encoder 'mine': unknown what it was trained on" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clip-b16-UCFCrime-finetuned", "UCF_Crime_I3D"])
def test_a_name_that_has_the_benchmark_in_it_is_taken_at_its_word(name):
    with pytest.raises(UserError, match="trained on ucf-crime, as its name says"):
        encoders.check_leakage(name, "ucf-crime", False)
    assert "unknown" in encoders.check_leakage(name, None, False)


@pytest.mark.parametrize("name", encoders.ORIGINS)
def test_the_table_of_encoders_names_its_sources(name):
    origin = encoders.ORIGINS[name]
    assert "arXiv:" in origin.source or name == "motion"
    assert set(origin.benchmarks) <= set(encoders.BENCHMARKS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"visual": ""}, "--visual: expected a folder, list or CSV"),
        ({"out": ""}, "--out: expected the folder of a store"),
        ({"layout": "TxD"}, "--layout: expected auto, TxNxD, NxTxD, per_crop"),
        ({"layout": "per_crop"}, "--layout=per_crop: expected names that end in _0"),
        ({"crop": 10}, "--crop=10: expected one of the 10 crops"),
        ({"root": "/nowhere"}, "--root=/nowhere: expected a folder"),
        ({"visual": "/nowhere"}, "/nowhere: expected a list of files, one a line, found none"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        imported(tmp_path, circulating.rtfm(tmp_path / "set"), **flags)
    assert not (tmp_path / "store").exists()


_bytes = st.binary(max_size=300)
_arrays = st.tuples(
    st.lists(st.integers(0, 12), max_size=4),
    st.sampled_from(["f2", "f4", "f8", "i2", "u1", "b1", "c8", "S3"]),
).map(lambda each: np.ones(each[0], each[1]))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    members=st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1,
                    max_size=8),
            st.sampled_from([".npy", ".npz", ".h5", "__0.npy", "_1.npy", "_label_A.npy"]),
            st.one_of(_bytes, _arrays, st.tuples(_arrays, st.integers(0, 200))),
        ),
        min_size=1, max_size=6,
    ),
    listed=st.one_of(st.none(), _bytes, st.text(max_size=80).map(lambda text: text.encode())),
    skip_faulty=st.booleans(),
)  # fmt: skip
def test_no_content_gives_another_error_or_a_partial_store(members, listed, skip_faulty):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "train").mkdir()
        for stem, suffix, content in members:
            _write(folder / "train" / f"{stem}{suffix}", content)
        visual = folder / "train"
        if listed is not None:
            visual = folder / "train.list"
            visual.write_bytes(listed)
        options = FeatureImport(
            visual=f"train={visual}",
            root=str(folder) if listed is not None else "",
            abnormal_first=(len(members) // 2,),
            skip_faulty=skip_faulty,
            out=str(folder / "store"),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            message = refusal(options)
        if message is None:
            assert len(Store(folder / "store"))
        else:
            assert "expected" in message
            assert not (folder / "store").exists()


def refusal(options):
    """Imports; returns the refusal, or None without one."""
    try:
        import_features(options)
    except UserError as error:
        return str(error)
    return None


def _write(path, content):
    if len(os.fsencode(path.name)) > 250:
        return
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    array, cut = content if isinstance(content, tuple) else (content, None)
    with open(path, "wb") as file:
        if path.suffix == ".npz":
            np.savez(file, a=array, b=array)
        elif path.suffix == ".h5" and array.dtype.kind != "S":
            import h5py

            with h5py.File(file, "w") as archive:
                archive["features"] = array
        else:
            np.save(file, array)
    if cut is not None:
        path.write_bytes(path.read_bytes()[:-cut] if cut else path.read_bytes())
