"""Files are written whole or not at all, and errors name damaged ones."""

import errno
import io

import msgspec
import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import files
from gvvad_jax.store.files import (
    load_array,
    load_arrays,
    os,
    read_json,
    read_json_as,
    read_lines,
    read_text,
    write_arrays,
    write_atomically,
)


class _Entry(msgspec.Struct, frozen=True):
    a: int
    b: float = 0.0


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
    with pytest.raises(UserError, match="x.npy: expected numbers, found none"):
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


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "x")
    for read in (read_json, read_text, lambda path: load_array(path, "numbers")):
        with pytest.raises(UserError, match="x: expected .*, found a pipe, socket or device"):
            read(tmp_path / "x")


def test_arrays_that_expand_beyond_reason_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_EXPANDED_BYTES", 3 << 20)
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(4 << 20, np.uint8))
    with pytest.raises(UserError, match="x.npz: expected arrays, found .*4 MiB once expanded"):
        load_arrays(tmp_path / "x.npz", "arrays")
    monkeypatch.setattr(files, "_MAX_EXPANDED_BYTES", 5 << 20)
    assert load_arrays(tmp_path / "x.npz", "arrays")["a"].shape == (4 << 20,)


def test_a_byte_order_mark_and_either_line_end_are_read(tmp_path):
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert read_lines(tmp_path / "x", _Entry, "entries", "") == [_Entry(a=1), _Entry(a=2)]
    assert read_text(tmp_path / "x") == '{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"a": "1"}', "Expected `int`, got `str` - at `a`"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `a`"),
        ('{"a": 1, "a": 2}', "each name once in an object, found 'a' twice"),
        ('{"a": 1, "b": NaN}', "expected finite numbers, found NaN"),
        ('{"a": 1e999}', "Expected `int`"),
        ("9" * 5000, "found something else"),
        ("[" * 200_000, "nested too deeply"),
        ("\udcff", "no UTF-8"),
    ],
)
def test_json_of_another_type_is_refused_with_its_place(tmp_path, content, problem):
    (tmp_path / "x.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"x\.json: expected ") as caught:
        read_json_as(tmp_path / "x.json", _Entry, "an entry", "correct it")
    assert problem in str(caught.value) and "\n" not in str(caught.value)
