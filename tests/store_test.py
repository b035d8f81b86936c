"""The feature store: whole or not at all, the same however it was written."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from gvvad_jax import annotations, store
from gvvad_jax.command import UserError

MANIFEST = store.Manifest(
    encoder={"id": "test", "weights": "none", "pooling": "none", "normalised": False},
    dim=4,
    crops={"count": 2, "order": "whole, mirrored"},
    snippet={"frames": 4, "stride": 4, "pooling": "mean"},
    fps_policy="native",
    text={"encoder": "words", "dim": 3, "normalised": True},
)
IDS = ["c", "a", "d/e", "b"]


def _videos(ids=IDS):
    entries = {i: {"file": f"{i}.mp4", "label": n % 2, "split": "train"} for n, i in enumerate(ids)}
    return annotations.from_json({"fps": 10, "videos": entries}, "videos.json")


def _video(video_id):
    rng = np.random.default_rng(ord(video_id[0]))
    count = 2 + ord(video_id[0]) % 3
    row = store.Row(
        id=video_id,
        num_snippets=count,
        num_frames=4 * count,
        fps=10.0,
        source="real",
        declared_frames=4 * count,
        decoded_frames=4 * count,
    )
    visual_TxNxD = rng.normal(size=(count, 2, 4)).astype(np.float32)
    return row, visual_TxNxD, rng.normal(size=(count, 3)).astype(np.float32)


def _write(path, ids=IDS, shard_bytes=1, videos=None):
    writer = store.Writer(path, MANIFEST, videos or _videos())
    for video_id in ids:
        if not writer.has(video_id):
            writer.add(*_video(video_id))
    return writer, writer.pack(shard_bytes)


def _files(path):
    return {p.name: p.read_bytes() for p in pathlib.Path(path).iterdir() if p.name != ".lock"}


def test_reads_back_what_was_written(tmp_path):
    assert _write(tmp_path / "s", shard_bytes=100)[1]
    opened = store.Store(tmp_path / "s")
    assert list(opened.rows) == sorted(IDS)
    for video_id in IDS:
        row, visual_TxNxD, text_TxE = _video(video_id)
        np.testing.assert_array_equal(opened.visual(video_id), visual_TxNxD)
        np.testing.assert_array_equal(opened.text(video_id), text_TxE)
        assert isinstance(opened.visual(video_id), np.memmap)
        np.testing.assert_allclose(
            opened.times(video_id)[-1], [row.num_frames / 10 - 0.4, row.num_frames / 10]
        )
    assert opened.faults() == []
    assert opened.summary()["videos"] == 4 and opened.summary()["abnormal"] == 2


def test_the_order_and_number_of_writers_leave_no_trace(tmp_path):
    _write(tmp_path / "one")
    _, finished = _write(tmp_path / "two", ids=["b", "d/e"])
    assert not finished
    with pytest.raises(UserError, match="under way"):
        store.Store(tmp_path / "two")
    assert _write(tmp_path / "two", ids=["a", "c"])[1]
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_packing_cut_short_is_taken_up_again(tmp_path, monkeypatch):
    _write(tmp_path / "whole")
    written = []
    write_shard = store.Writer._write_shard

    def cut_short(self, index, rows):
        if index == 2:
            raise KeyboardInterrupt
        written.append(index)
        write_shard(self, index, rows)

    with monkeypatch.context() as patch:
        patch.setattr(store.Writer, "_write_shard", cut_short)
        with pytest.raises(KeyboardInterrupt):
            _write(tmp_path / "cut")
    assert written == [0, 1]
    assert _write(tmp_path / "cut", ids=[])[1]
    assert _files(tmp_path / "whole") == _files(tmp_path / "cut")


def test_a_longer_list_keeps_what_is_encoded(tmp_path):
    _write(tmp_path / "grown", ids=IDS[:3], videos=_videos(IDS[:3]))
    writer = store.Writer(tmp_path / "grown", MANIFEST, _videos())
    assert [writer.has(video_id) for video_id in IDS] == [True, True, True, False]
    writer.add(*_video(IDS[3]))
    assert writer.pack(1)
    _write(tmp_path / "whole")
    assert _files(tmp_path / "grown") == _files(tmp_path / "whole")


def _made_of(ids=IDS, **changes):
    return dict.fromkeys(ids, "first") | changes


def _write_made_of(path, made_of, kill_after=None):
    """What the writer dropped as outdated, and what was written."""
    writer, written = store.Writer(path, MANIFEST, _videos(), made_of), []
    for video_id in IDS:
        if not writer.has(video_id) and len(written) != kill_after:
            row, *arrays = _video(video_id)
            row = dataclasses.replace(row, made_of=made_of[video_id])
            writer.add(row, *(array + len(made_of[video_id]) for array in arrays))
            written.append(video_id)
    assert writer.pack(1) == (kill_after is None)
    return writer.outdated, written


def test_what_was_made_of_something_else_is_written_again(tmp_path):
    changed = _made_of(b="another", c="another")
    _write_made_of(tmp_path / "whole", changed)
    assert _write_made_of(tmp_path / "s", _made_of()) == ([], IDS)
    # Of a finished store, then of one that was begun.
    assert _write_made_of(tmp_path / "s", changed, kill_after=1) == (["b", "c"], ["c"])
    assert _write_made_of(tmp_path / "s", _made_of(b="another"), kill_after=0) == (["c"], [])
    assert _write_made_of(tmp_path / "s", changed) == ([], ["c", "b"])
    assert _files(tmp_path / "s") == _files(tmp_path / "whole")
    assert _write_made_of(tmp_path / "s", changed) == ([], [])
    # Rows that don't say stay as they are, and so do all for a writer that doesn't ask.
    _write(tmp_path / "old")
    assert _write_made_of(tmp_path / "old", changed) == ([], [])
    assert store.Writer(tmp_path / "s", MANIFEST, _videos()).pack()


def test_an_unreadable_file_that_was_replaced_is_tried_again(tmp_path):
    for state, expected in (("first", []), ("mended", ["c"])):
        writer = store.Writer(tmp_path, MANIFEST, _videos(), _made_of(c=state))
        assert writer.outdated == expected
        for video_id in IDS[1:]:
            if not writer.has(video_id):
                writer.add(*_video(video_id))
        assert writer.has("c") == (not expected and not writer.path.joinpath("parts").exists())
        if not expected:
            writer.quarantine("c", "no frames")
            assert writer.pack()
            assert store.Store(tmp_path).quarantined == {"c": "no frames"}
    writer.add(*_video("c"))
    assert writer.pack() and "c" in store.Store(tmp_path).rows


def test_a_finished_store_is_left_alone(tmp_path):
    _write(tmp_path / "s")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("shard*")}
    writer, finished = _write(tmp_path / "s")
    assert finished and writer.has("a")
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("shard*")}


def test_a_quarantined_video_is_told(tmp_path):
    writer = store.Writer(tmp_path, MANIFEST, _videos())
    for video_id in IDS[1:]:
        writer.add(*_video(video_id))
    writer.quarantine("c", "no frames")
    assert writer.pack()
    opened = store.Store(tmp_path)
    assert opened.quarantined == {"c": "no frames"}
    assert opened.faults() == []


def test_another_making_is_refused(tmp_path):
    _write(tmp_path / "s")
    other = dataclasses.replace(MANIFEST, snippet={"frames": 8, "stride": 4, "pooling": "mean"})
    with pytest.raises(UserError, match="snippet .*'frames': 8"):
        store.Writer(tmp_path / "s", other, _videos())


def test_a_description_stands_in_for_a_caption_between_stores_but_not_within_one(tmp_path):
    git, stand_in, blip = (
        dataclasses.replace(MANIFEST, text=dict(MANIFEST.text, captioner=captioner))
        for captioner in ("git", "description", "blip")
    )
    assert not git.differences(stand_in) and not stand_in.differences(git)
    assert git.differences(blip)
    store.Writer(tmp_path, git, _videos())
    with pytest.raises(UserError, match="captioner"):
        store.Writer(tmp_path, stand_in, _videos())


def test_stores_of_one_run_must_agree(tmp_path):
    _write(tmp_path / "s")
    one, two = store.Store(tmp_path / "s"), store.Store(tmp_path / "s")
    store.require_agreement([one, two])
    two.manifest = dataclasses.replace(MANIFEST, dtype="float16")
    store.require_agreement([one, two])
    two.manifest = dataclasses.replace(MANIFEST, text=None)
    with pytest.raises(UserError, match="text"):
        store.require_agreement([one, two])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v, t: (v[:-1], t), "expected visual shape"),
        (lambda v, t: (v, t[:, :2]), "expected text shape"),
        (lambda v, t: (v, None), "expected text True"),
        (lambda v, t: (v * np.inf, t), "finite visual"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, change, named):
    writer = store.Writer(tmp_path, MANIFEST, _videos())
    row, visual_TxNxD, text_TxE = _video("a")
    with pytest.raises(ValueError, match=named):
        writer.add(row, *change(visual_TxNxD, text_TxE))
    assert not writer.has("a")


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
    _write(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match="faults"):
        store.main([str(tmp_path)])
    assert named in capsys.readouterr().err


def test_an_array_that_would_run_code_is_not_opened(tmp_path):
    _write(tmp_path)
    np.save(tmp_path / "shard-00000.visual.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="shard-00000.visual.npy"):
        store.Store(tmp_path)


def test_a_shard_cut_short_is_named(tmp_path):
    _write(tmp_path)
    np.save(tmp_path / "shard-00000.visual.npy", np.zeros((1, 2, 4), np.float32))
    with pytest.raises(UserError, match="shard-00000.jsonl: video 'a'"):
        store.Store(tmp_path)


def test_no_store_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="generation.encode"):
        store.Store(tmp_path / "absent")
