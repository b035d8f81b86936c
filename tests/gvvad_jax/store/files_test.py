"""Files are written whole or not at all, and errors name damaged ones."""

import errno
import io

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store.files import load_array, load_arrays, os, write_arrays, write_atomically


def _npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(50))
    return buffer.getvalue()


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"words", _npz(), _npz()[:200], _npy(np.zeros(9))[:-8], _npy(np.array(["a"]))]
)
def test_a_file_without_an_array_is_named(tmp_path, content):
    path = tmp_path / "x.npy"
    with pytest.raises(UserError, match="x.npy: expected numbers, found No such file"):
        load_array(path, "numbers")
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.npy: expected numbers, found") as caught:
        load_array(path, "numbers")
    assert "unsafely" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"words", _npz()[:200], _npy(np.zeros(9))])
def test_a_file_that_is_not_an_npz_is_named(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.npz: expected arrays, found") as caught:
        load_arrays(path, "arrays")
    assert "unsafely" not in str(caught.value)
    path.write_bytes(_npz().replace(bytes(64), bytes(63) + b"1"))  # The checksum is wrong.
    with pytest.raises(UserError, match="x.npz: expected arrays, found"):
        load_arrays(path, "arrays")


def test_arrays_of_any_name_are_read_back(tmp_path):
    names = ["file", "allow_pickle", "kwds", "a/b", "a.npy", "../up", "\u00e9"]
    write_arrays(tmp_path / "x.npz", {n: np.full(2, i) for i, n in enumerate(names)})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert {name: found[name].tolist() for name in found} == {
            name: [i, i] for i, name in enumerate(names)
        }


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="absent/x: expected a folder to write in, found no "):
        write_atomically(tmp_path / "absent" / "x", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "folder", b"")
    assert caught.value.filename == str(tmp_path / "folder")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "x", b"")
    assert caught.value.filename == str(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
