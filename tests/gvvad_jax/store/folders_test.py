"""A command's own folder is recognised; what is another's isn't touched."""

import functools
import os
import threading

import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import files, folders


def test_an_absent_or_empty_folder_is_claimed_and_recognised(tmp_path):
    for name in ("a/b", "empty"):
        folder = tmp_path / name
        if name == "empty":
            folder.mkdir()
            (folder / ".DS_Store").touch()
        assert folders.claim(folder, "store") == folder
        (folder / "shard").touch()
        folders.claim(folder, "store")
        with pytest.raises(
            UserError, match="--out=.*one of the kind 'run', found one of the kind 'store'"
        ):
            folders.claim(folder, "run")


def test_other_folders_are_refused_untouched(tmp_path):
    (tmp_path / "videos.json").write_text("mine")
    with pytest.raises(UserError, match=r"--out=.*found other files \(videos.json\)"):
        folders.claim(tmp_path, "store", signs=["manifest.json", "videos.json"])
    assert os.listdir(tmp_path) == ["videos.json"]
    with pytest.raises(UserError, match="found a file"):
        folders.claim(tmp_path / "videos.json", "store")
    (tmp_path / "manifest.json").touch()
    folders.claim(tmp_path, "store", signs=["manifest.json", "videos.json"])
    assert (tmp_path / ".gvvad").read_text() == "store\n"


def test_a_lock_is_held_once_and_follows_no_link(tmp_path):
    lock = functools.partial(folders.locked, busy="busy")
    with lock(tmp_path / ".lock"), pytest.raises(UserError, match="busy"):
        lock(tmp_path / ".lock").__enter__()
    with lock(tmp_path / ".lock"):
        pass
    (tmp_path / "precious").write_text("content")
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(UserError, match="link: expected a lock, found a link"):
        lock(tmp_path / "link").__enter__()
    assert (tmp_path / "precious").read_text() == "content"


def test_litter_is_cleared_but_not_what_is_being_written(tmp_path, monkeypatch):
    (tmp_path / ".a.01234567.partial").touch()
    monkeypatch.setattr(folders, "_LITTER_SECONDS", -1.0)
    writing, go_on = threading.Event(), threading.Event()

    def fsync(descriptor):
        writing.set()
        go_on.wait(20)

    monkeypatch.setattr(files.os, "fsync", fsync)
    thread = threading.Thread(target=files.write_atomically, args=(tmp_path / "b", b"content"))
    thread.start()
    assert writing.wait(20)
    folders.clear_litter(tmp_path)
    left = os.listdir(tmp_path)
    go_on.set()
    thread.join()
    assert len(left) == 1 and left[0].startswith(".b.")
    assert os.listdir(tmp_path) == ["b"]


def test_a_file_of_another_kind_is_not_overwritten(tmp_path):
    out = tmp_path / "scores.npz"
    folders.require_own_file(out, b"PK")
    for sound in (b"", b"PK\x03\x04"):
        out.write_bytes(sound)
        folders.require_own_file(out, b"PK")
    out.write_text("mine")
    with pytest.raises(UserError, match="--out=.*found another kind of file"):
        folders.require_own_file(out, b"PK")
    out.unlink()
    os.mkfifo(out)
    with pytest.raises(UserError, match="found a pipe"):
        folders.require_own_file(out, b"PK")
