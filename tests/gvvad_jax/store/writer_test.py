"""Writing the feature store: whole or not at all, the same however it was written."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import files as files_lib
from gvvad_jax.store import folders, packing
from gvvad_jax.store import parts as store_parts
from gvvad_jax.store import writer as store_writer
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter
from tests.support.tiny_store import IDS, MANIFEST, annotated, encoded, files, write


def test_the_order_and_number_of_writers_leave_no_trace(tmp_path):
    write(tmp_path / "one")
    _, finished = write(tmp_path / "two", ids=["b", "d/e"])
    assert not finished
    with pytest.raises(UserError, match="under way"):
        Store(tmp_path / "two")
    assert write(tmp_path / "two", ids=["a", "c"])[1]
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_packing_cut_short_is_taken_up_again(tmp_path, monkeypatch):
    write(tmp_path / "whole")
    written = []
    write_shard = packing.write_shard

    def cut_short(shard, *others):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.name)
        write_shard(shard, *others)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_shard", cut_short)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut")
    assert written == ["shard-00000.jsonl", "shard-00001.jsonl"]
    assert write(tmp_path / "cut", ids=[])[1]
    assert files(tmp_path / "whole") == files(tmp_path / "cut")


def test_packing_killed_anywhere_leaves_nothing_behind(tmp_path, monkeypatch):
    write(tmp_path / "whole")

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # while it writes a shard ...
        patch.setattr(os, "fsync", kill)
        for module in (store_writer, store_parts, packing, folders, files_lib):
            patch.setattr(
                module, "write_atomically", lambda path, content: path.write_bytes(content)
            )
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut")
    assert list((tmp_path / "cut").glob(".shard-*.partial"))
    with monkeypatch.context() as patch:  # ... and after all of them are there
        rename = os.rename
        patch.setattr(os, "rename", lambda *paths: kill(rename(*paths)))
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut", ids=[])
    assert (tmp_path / "cut" / ".packed-parts").exists()
    assert write(tmp_path / "cut", ids=[])[1]
    assert files(tmp_path / "whole") == files(tmp_path / "cut")
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {
        p.name for p in (tmp_path / "cut").iterdir()
    }


def test_a_video_is_done_however_the_others_pack_meanwhile(tmp_path, monkeypatch):
    writer, _ = write(tmp_path / "s", ids=["a"])
    exists = pathlib.Path.exists

    def packed_after_a_look(path):
        monkeypatch.setattr(pathlib.Path, "exists", exists)
        is_there = exists(path)
        assert write(tmp_path / "s", ids=["b", "c", "d/e"])[1]
        return is_there

    monkeypatch.setattr(pathlib.Path, "exists", packed_after_a_look)
    assert writer.has("a")


def test_a_longer_list_keeps_what_is_encoded(tmp_path):
    write(tmp_path / "grown", ids=IDS[:3], videos=annotated(IDS[:3]))
    writer = StoreWriter(tmp_path / "grown", MANIFEST, annotated())
    assert [writer.has(video_id) for video_id in IDS] == [True, True, True, False]
    writer.add(*encoded(IDS[3]))
    assert writer.pack(1)
    write(tmp_path / "whole")
    assert files(tmp_path / "grown") == files(tmp_path / "whole")


def _made_of(ids=IDS, **changes):
    return dict.fromkeys(ids, "first") | changes


def _write_made_of(path, made_of, kill_after=None):
    """What the writer dropped as outdated, and what was written."""
    writer, written = StoreWriter(path, MANIFEST, annotated(), made_of), []
    for video_id in IDS:
        if not writer.has(video_id) and len(written) != kill_after:
            row, *arrays = encoded(video_id)
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
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    assert _write_made_of(tmp_path / "s", changed) == ([], [])
    # Rows that don't say stay as they are, and so do all for a writer that doesn't ask.
    write(tmp_path / "old")
    assert _write_made_of(tmp_path / "old", changed) == ([], [])
    assert StoreWriter(tmp_path / "s", MANIFEST, annotated()).pack()


def test_an_unreadable_file_that_was_replaced_is_tried_again(tmp_path):
    for state, expected in (("first", []), ("mended", ["c"])):
        writer = StoreWriter(tmp_path, MANIFEST, annotated(), _made_of(c=state))
        assert writer.outdated == expected
        for video_id in IDS[1:]:
            if not writer.has(video_id):
                writer.add(*encoded(video_id))
        assert writer.has("c") == (not expected and not writer.path.joinpath("parts").exists())
        if not expected:
            writer.quarantine("c", "no frames")
            assert writer.pack()
            assert Store(tmp_path).quarantined == {"c": "no frames"}
    writer.add(*encoded("c"))
    assert writer.pack() and "c" in Store(tmp_path).rows


def test_a_finished_store_is_left_alone(tmp_path):
    write(tmp_path / "s")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("shard*")}
    writer, finished = write(tmp_path / "s")
    assert finished and writer.has("a")
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("shard*")}


def test_a_quarantined_video_is_reported(tmp_path):
    writer = StoreWriter(tmp_path, MANIFEST, annotated())
    for video_id in IDS[1:]:
        writer.add(*encoded(video_id))
    writer.quarantine("c", "no frames")
    assert writer.pack()
    opened = Store(tmp_path)
    assert opened.quarantined == {"c": "no frames"}
    assert opened.faults() == []


def test_another_making_is_refused(tmp_path):
    write(tmp_path / "s")
    other = dataclasses.replace(MANIFEST, snippet={"frames": 8, "stride": 4, "pooling": "mean"})
    with pytest.raises(UserError, match="the same settings, found snippet frames 4 instead of 8"):
        StoreWriter(tmp_path / "s", other, annotated())


def test_a_description_stands_in_for_a_caption_between_stores_but_not_within_one(tmp_path):
    git, stand_in, blip = (
        dataclasses.replace(MANIFEST, text=dict(MANIFEST.text, captioner=captioner))
        for captioner in ("git", "description", "blip")
    )
    assert not git.differences(stand_in) and not stand_in.differences(git)
    assert git.differences(blip)
    StoreWriter(tmp_path, git, annotated())
    with pytest.raises(UserError, match="captioner"):
        StoreWriter(tmp_path, stand_in, annotated())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v, t: (v[:-1], t), "expected visual shape"),
        (lambda v, t: (v, t[:, :2]), "expected text shape"),
        (lambda v, t: (v, None), "expected text rows, found none"),
        (lambda v, t: (v * np.inf, t), "finite visual"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, change, named):
    writer = StoreWriter(tmp_path, MANIFEST, annotated())
    row, visual_TxNxD, text_TxE = encoded("a")
    with pytest.raises(ValueError, match=named):
        writer.add(row, *change(visual_TxNxD, text_TxE))
    assert not writer.has("a")
