"""What version 0.2.0 wrote: stores are read and upgraded; its runs score, but don't resume."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from gvvad_jax import scoring, training
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import __main__ as store_command
from gvvad_jax.store import digests, sealing
from gvvad_jax.store.format import Manifest
from gvvad_jax.store.reader import Store, require_agreement
from gvvad_jax.store.writer import StoreWriter
from tests.support.version_1 import write_version_1

CLIP = {"id": "clip-l", "weights": "l", "digest": "0123456789ab"}


def _config(store, workdir, **changes):
    return TrainConfig(
        store=str(store), workdir=str(workdir), detector="mil_rank", segments=4, batch_size=2,
        steps=1, validation_share=0.0, **changes,
    )  # fmt: skip


def test_a_store_of_version_1_trains_and_scores_as_it_did(tmp_path, capsys):
    path = write_version_1(tmp_path / "s")
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    config = _config(path, tmp_path / "run")
    result = training.fit(config)
    scores = scoring.load(config.workdir).score(Store(path))
    told = capsys.readouterr().err
    assert told.count("a store of format version 1: its rows are checked") == 1
    assert (
        len(scores) == 14
        and result.last
        and before == {p.name: p.read_bytes() for p in path.iterdir()}
    )
    store_command.upgrade(Store(path))
    assert f"{path}: upgraded to format version 2" in capsys.readouterr().err
    assert json.loads((path / "manifest.json").read_text())["format_version"] == 2
    assert not store_command.upgrade(Store(path)) and not Store(path).faults()
    # The same rows: the run goes on, and scores the same.
    training.fit(dataclasses.replace(config, steps=2))
    for video_id, scores_T in scoring.load(config.workdir).score(Store(path)).items():
        assert scores_T.shape == scores[video_id].shape
    assert "version 1" not in capsys.readouterr().err


def test_an_upgraded_store_notices_what_version_1_could_not(tmp_path):
    path = write_version_1(tmp_path / "s")
    store_command.upgrade(Store(path))
    for name in ("bank.npy", "shard-00000.jsonl", "manifest.json"):
        content = (path / name).read_bytes()
        (path / name).write_bytes(content.replace(b"4", b"5", 1) if name != "bank.npy" else b"x")
        with pytest.raises(UserError, match=name):
            Store(path)
        (path / name).write_bytes(content)
    Store(path)


def test_a_damaged_store_is_not_upgraded(tmp_path):
    path = write_version_1(tmp_path / "s")
    assert len(dict(Store(path))) == 14
    array = np.load(path / "shard-00000.visual.npy", mmap_mode="r+")
    array[3, 0, 0] += 1
    with pytest.raises(UserError, match="expected a sound store, found 1 faults"):
        store_command.main([str(path)])
    with pytest.raises(UserError, match="'train-1': expected rows of sha256"):
        dict(Store(path))


def test_weights_known_by_their_ends_are_not_compared_with_content(tmp_path):
    old = Store(write_version_1(tmp_path / "old", encoder=CLIP)).manifest
    new = Manifest.from_json(old.to_json() | {"weights_known_by": "content"})
    require_agreement([Store(tmp_path / "old"), Store(tmp_path / "old")])
    assert old.differences(new) and "size and ends alone" in old.differences(new)[0]
    assert not old.differences(new, unknown_agrees=True)
    assert old.unknown_weights(new) == ["encoder"]
    other = dataclasses.replace(new, encoder=CLIP | {"pooling": "mean", "normalised": True})
    assert old.differences(other, unknown_agrees=True)
    store_command.upgrade(Store(tmp_path / "old"))
    assert sealing.read(tmp_path / "old").manifest.unknown_weights(new) == ["encoder"]
    # Without weights there is nothing that isn't known.
    plain = Store(write_version_1(tmp_path / "plain")).manifest
    assert not plain.differences(dataclasses.replace(plain, weights_known_by="content"))


def test_rows_that_version_1_knew_by_ends_are_made_again_in_one_line(tmp_path, capsys):
    path = write_version_1(tmp_path / "s", made_of=digests.of_text("ends"))
    opened = Store(path)
    now = dict.fromkeys(opened, digests.of_text("content"))
    manifest = dataclasses.replace(opened.manifest, weights_known_by="content")
    capsys.readouterr()
    writer = StoreWriter(path, manifest, opened.videos, now)
    assert not writer.outdated and not any(map(writer.has, opened))
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "14 of them are encoded again" in told


def test_a_run_of_version_1_scores_but_does_not_resume(tmp_path, capsys):
    config = _config(write_version_1(tmp_path / "s"), tmp_path / "run")
    training.fit(config)
    workdir = pathlib.Path(config.workdir)
    expected = scoring.load(workdir).score(Store(config.store))
    _downgrade_run(workdir)
    capsys.readouterr()
    scores = scoring.load(workdir).score(Store(config.store))
    assert all(np.array_equal(scores[i], expected[i]) for i in expected)
    assert capsys.readouterr().err.count("a run of version 1: it scores") == 1
    with pytest.raises(UserError, match="one of version 1, which scores but can't be resumed"):
        training.fit(dataclasses.replace(config, steps=2))


def _downgrade_run(workdir):
    model = json.loads((workdir / "model.json").read_text())
    del model["sha256"], model["manifest"]["weights_known_by"], model["config"]["verify_rows"]
    model["manifest"]["format_version"] = 1
    (workdir / "model.json").write_text(json.dumps(model))
    (workdir / "begun.json").write_text('{"stores": ["a"], "splits": "b", "labels": "c"}')
    (note,) = (workdir / "checkpoints" / "last").glob("*/measure/metadata")
    note.write_text(json.dumps(json.loads(note.read_text())["measure"]))


def test_a_run_is_resumed_wherever_it_and_its_data_lie(tmp_path, monkeypatch):
    for name in ("first", "second"):
        sizes = {"train": 3, "test": 1} if name == "first" else {"more": 2}
        write_version_1(tmp_path / name, split_sizes=sizes)
    listed = json.loads((tmp_path / "second" / "videos.json").read_text())
    for entry in listed["videos"].values():
        entry["split"] = "train"
    (tmp_path / "second" / "videos.json").write_text(json.dumps(listed))
    monkeypatch.chdir(tmp_path)
    config = _config("first,second/", "run/", annotations="")
    training.fit(config)
    moves = [
        ("absolute", {"store": f"{tmp_path}/first/,./second", "workdir": f"{tmp_path}/run"}, ()),
        ("moved run", {"workdir": "elsewhere/run"}, [("run", "elsewhere/run")]),
        ("moved store", {"store": "first,b", "workdir": "elsewhere/run/"}, [("second", "b")]),
    ]
    for steps, (_, changes, renames) in enumerate(moves, start=2):
        for old, new in renames:
            (tmp_path / new).parent.mkdir(exist_ok=True)
            shutil.move(tmp_path / old, tmp_path / new)
        assert training.fit(dataclasses.replace(config, steps=steps, **changes)).steps == steps
    for stores, named in (
        ("b,first", r"store 1 \(b\), store 2"),
        ("first", "--store, which named 2"),
        ("first,b,b2", r"store 3 \(b2\)"),
    ):
        if "b2" in stores:
            write_version_1(tmp_path / "b2", split_sizes={"third": 1})
            text = (tmp_path / "b2/videos.json").read_text()
            (tmp_path / "b2/videos.json").write_text(text.replace('"third"', '"train"'))
        with pytest.raises(UserError, match=f"found other content in .*{named}"):
            training.fit(
                dataclasses.replace(config, steps=5, store=stores, workdir="elsewhere/run")
            )
