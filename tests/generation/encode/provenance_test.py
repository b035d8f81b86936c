"""Digests of videos, which tell whether a row is up to date."""

import json
import os
import shutil

import pytest

from generation.encode import encoding, provenance
from generation.encode.recipe import EncodeOptions
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.reader import Store
from tests.support.tiny_videos import write_videos


def _digest(folder, file):
    videos = {"a": {"file": file, "label": 0, "split": "train", "fps": 10}}
    (folder / "videos.json").write_text(json.dumps({"videos": videos}))
    return provenance.video_digests(annotations.load(folder / "videos.json"), {}, "real")["a"]


def _frames(folder, names):
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes(bytes([number]) * 100)


@pytest.mark.parametrize("file", ["a.mp4", "frames"])
def test_a_video_that_cannot_be_read_counts_as_changed_once_it_can(tmp_path, monkeypatch, file):
    (tmp_path / "a.mp4").write_bytes(b"a")
    _frames(tmp_path / "frames", ["0.png"])

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(digests, "of_file", refused)
        unreadable = _digest(tmp_path, file)
    assert _digest(tmp_path, file) != unreadable


def test_a_pipe_is_quarantined_rather_than_waited_for(tmp_path):
    write_videos(tmp_path)
    (tmp_path / "b.mp4").unlink()
    os.mkfifo(tmp_path / "b.mp4")
    store = tmp_path / "store"
    assert encoding.encode(tmp_path / "videos.json", store, EncodeOptions(encoder="motion"))
    assert set(Store(store).rows) == {"a", "c", "d"}
    assert "b" in Store(store).quarantined


def test_a_change_in_the_middle_of_a_large_file_is_noticed(tmp_path):
    """As when a preallocated download goes on: size and ends were all that was looked at."""
    content = bytearray(os.urandom(1 << 20))
    (tmp_path / "a.mp4").write_bytes(content)
    before = _digest(tmp_path, "a.mp4")
    content[1 << 19] ^= 1
    (tmp_path / "a.mp4").write_bytes(content)
    assert _digest(tmp_path, "a.mp4") != before
    assert len(before) == 64


def test_every_frame_of_a_folder_counts_and_nothing_else(tmp_path):
    _frames(tmp_path / "frames", [f"{number}.png" for number in range(100)])
    before = _digest(tmp_path, "frames")
    (tmp_path / "frames" / "Thumbs.db").write_bytes(b"x")
    assert _digest(tmp_path, "frames") == before
    # Identity is content and order: names that keep the order change nothing.
    renamed = tmp_path / "renamed"
    shutil.copytree(tmp_path / "frames", renamed)
    for path in renamed.glob("*.png"):
        path.rename(renamed / f"frame_{int(path.stem):05d}.png")
    assert _digest(tmp_path, "renamed") == before
    (renamed / "frame_00041.png").write_bytes(b"y" * 100)
    assert _digest(tmp_path, "renamed") != before
    (tmp_path / "empty").mkdir()
    assert _digest(tmp_path, "empty") != before


def test_ranks_digest_every_video(tmp_path, monkeypatch):
    for name in "abcde":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    videos = {n: {"file": f"{n}.mp4", "label": 0, "split": "train"} for n in "abcde"}
    (tmp_path / "videos.json").write_text(json.dumps({"videos": videos}))
    listed = annotations.load(tmp_path / "videos.json")
    alone = provenance.video_digests(listed, {}, "real")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert provenance.video_digests(listed, {}, "real") == alone and len(alone) == 5


def test_damaged_notes_are_written_again(tmp_path, capsys):
    provenance.add_notes(tmp_path, options="x", weights={"weights": None}, computed_in=["float32"])
    provenance.add_notes(tmp_path, computed_in=["bfloat16"])
    notes = {"computed_in": ["bfloat16", "float32"], "options": "x", "weights": {"weights": None}}
    assert json.loads((tmp_path / "encoding.json").read_text()) == notes
    for damage in ("", "[]", '{"options": 3}', '{"weights": ["a"]}', '{"computed_in": "a"}'):
        (tmp_path / "encoding.json").write_text(damage)
        provenance.add_notes(tmp_path, options="y")
        assert json.loads((tmp_path / "encoding.json").read_text()) == {"options": "y"}
        assert "encoding.json: expected" in capsys.readouterr().err


def test_a_damaged_store_is_not_finished(tmp_path):
    """The writer then makes again what is damaged, instead of an error that repeats itself."""
    provenance.add_notes(tmp_path, options="x", weights={})
    for name in ("manifest.json", "videos.json"):
        (tmp_path / name).write_text("{")
    listed = annotations.from_json(
        {"videos": {"a": {"file": "a.mp4", "label": 0, "split": "train"}}}, "videos.json"
    )
    fingerprint = {"options": "x", "weights": {}, "names": {}}
    assert not provenance.is_finished(tmp_path, fingerprint, listed, {"a": "b"})
