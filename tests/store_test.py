"""The feature store: reads back what was written, and names what is wrong with one."""

import dataclasses
import json

import numpy as np
import pytest

from gvvad_jax import store
from gvvad_jax.command import UserError
from tests.tiny_store import IDS, MANIFEST, encoded, write


def test_reads_back_what_was_written(tmp_path):
    assert write(tmp_path / "s", shard_bytes=100)[1]
    opened = store.Store(tmp_path / "s")
    assert list(opened.rows) == sorted(IDS)
    for video_id in IDS:
        row, visual_TxNxD, text_TxE = encoded(video_id)
        np.testing.assert_array_equal(opened.visual(video_id), visual_TxNxD)
        np.testing.assert_array_equal(opened.text(video_id), text_TxE)
        assert isinstance(opened.visual(video_id), np.memmap)
        np.testing.assert_allclose(
            opened.times(video_id)[-1], [row.num_frames / 10 - 0.4, row.num_frames / 10]
        )
    assert opened.faults() == []
    assert opened.summary()["videos"] == 4 and opened.summary()["abnormal"] == 2


def test_stores_of_one_run_must_agree(tmp_path):
    write(tmp_path / "s")
    one, two = store.Store(tmp_path / "s"), store.Store(tmp_path / "s")
    store.require_agreement([one, two])
    two.manifest = dataclasses.replace(MANIFEST, dtype="float16")
    store.require_agreement([one, two])
    two.manifest = dataclasses.replace(MANIFEST, text=None)
    with pytest.raises(UserError, match="text"):
        store.require_agreement([one, two])


def _damage_value(path):
    array = np.load(path / "shard-00001.visual.npy", mmap_mode="r+")
    array[1, 0, 0] += 1


def _damage_offset(path):
    shard = path / "shard-00001.jsonl"
    row = json.loads(shard.read_text())
    shard.write_text(json.dumps(row | {"offset": 1, "num_snippets": row["num_snippets"] - 1}))


def _damage_list(path):
    entries = json.loads((path / "videos.json").read_text())
    del entries["videos"]["c"]
    (path / "videos.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_damage_value, "shard-00001.jsonl: video 'b': expected rows of sha256"),
        (_damage_offset, "shard-00001.jsonl: video 'b': expected offset 0, found 1"),
        (_damage_list, "videos.json: video 'c'"),
    ],
)
def test_validation_names_shard_video_expected_and_found(tmp_path, damage, named, capsys):
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match="faults"):
        store.main([str(tmp_path)])
    assert named in capsys.readouterr().err


def test_an_array_that_would_run_code_is_not_opened(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "shard-00000.visual.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="shard-00000.visual.npy"):
        store.Store(tmp_path)


def test_a_shard_cut_short_is_named(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "shard-00000.visual.npy", np.zeros((1, 2, 4), np.float32))
    with pytest.raises(UserError, match="shard-00000.jsonl: video 'a'"):
        store.Store(tmp_path)


def test_no_store_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="generation.encode"):
        store.Store(tmp_path / "absent")
