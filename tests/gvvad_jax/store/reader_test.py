"""The feature store: reads back what was written, and names what is wrong with one."""

import dataclasses
import json

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import __main__
from gvvad_jax.store.reader import Store, require_agreement
from tests.support.tiny_store import IDS, MANIFEST, encoded, write
from tests.support.version_1 import downgrade


def test_reads_back_what_was_written(tmp_path):
    assert write(tmp_path / "s", shard_bytes=100)[1]
    opened = Store(tmp_path / "s")
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
    one, two = Store(tmp_path / "s"), Store(tmp_path / "s")
    require_agreement([one, two])
    two.manifest = dataclasses.replace(MANIFEST, dtype="float16")
    require_agreement([one, two])
    two.manifest = dataclasses.replace(MANIFEST, text=None)
    with pytest.raises(UserError, match="text"):
        require_agreement([one, two])


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


def _bank(array):
    return lambda path: np.save(path / "bank.npy", array)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_damage_value, "shard-00001.jsonl: video 'b': expected rows of sha256"),
        (_damage_offset, "shard-00001.jsonl: video 'b': expected offset 0, found 1"),
        (_damage_list, "videos.json: video 'c'"),
        (_bank(np.zeros((0, 3))), "bank.npy: expected at least one row of width 3"),
        (_bank(np.zeros((2, 4))), "bank.npy: expected at least one row of width 3"),
        (_bank(np.full((2, 3), np.nan)), "bank.npy: expected finite rows"),
        (_bank(np.array("words")), "bank.npy: expected an array [K, text_dim]"),
    ],
)
def test_validation_names_shard_video_expected_and_found(tmp_path, damage, named, capsys):
    write(tmp_path)
    damage(downgrade(tmp_path))
    with pytest.raises(UserError, match="faults"):
        __main__.main([str(tmp_path)])
    assert named in capsys.readouterr().err


def test_an_array_that_would_run_code_is_not_opened(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "shard-00000.visual.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="shard-00000.visual.npy"):
        Store(tmp_path)


def test_a_shard_cut_short_is_named(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "shard-00000.visual.npy", np.zeros((1, 2, 4), np.float32))
    with pytest.raises(UserError, match="shard-00000.jsonl: video 'a'"):
        Store(tmp_path)


def test_no_store_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="gvvad encode"):
        Store(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("shard-00000.visual.npy", b"", "found something else"),
        ("shard-00000.text.npy", b"words", "found something else"),
        ("shard-00000.jsonl", b"\xff", "found no UTF-8"),
        ("shard-00000.jsonl", b"{}", "line 1: expected one video's row"),
        ("quarantine.jsonl", b"\xff", "found no UTF-8"),
        ("quarantine.jsonl", b"[]", "line 1: expected a video's"),
        ("quarantine.jsonl", b'{"id": "a"}', "line 1: expected a video's"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    write(tmp_path)
    (downgrade(tmp_path) / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        Store(tmp_path)


@pytest.mark.parametrize("changes", [{"num_snippets": "3"}, {"offset": -1}, {"fps": 0}, {"id": 3}])
def test_a_row_of_other_types_is_named(tmp_path, changes):
    write(tmp_path)
    shard = downgrade(tmp_path) / "shard-00000.jsonl"
    shard.write_text(json.dumps(json.loads(shard.read_text()) | changes))
    with pytest.raises(UserError, match="shard-00000.jsonl: line 1: expected one video's row"):
        Store(tmp_path)


def test_an_array_of_other_axes_is_named(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "shard-00000.visual.npy", np.zeros((9, 4), np.float32))
    with pytest.raises(UserError, match=r"visual.npy: expected an array \[T, crops, dim\], found"):
        Store(tmp_path)
