"""Pickles of data are read; pickles of anything else are refused before anything runs."""

import collections
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvvad_jax.command import UserError
from tools.importing import unpickling

CONTENT = {
    "labels": np.arange(5),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i2"),
    "flags": np.array([True, False]),
    "objects": np.array([np.ones(2), np.zeros(3)], dtype=object),
    "number": np.float64(2.5),
    "nested": {"x": [1, (2.5, "t", None, True)], "s": {1, 2}, "f": frozenset([3])},
    "ordered": collections.OrderedDict(a=1),
    "bytes": b"\x00\xff",
}


def _loads(content):
    return unpickling.loads(content, "gt.pickle", "labels")


def _equal(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    if isinstance(left, np.ndarray) and left.dtype == object:
        return all(map(_equal, left, right))
    return np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right


@pytest.mark.parametrize("protocol", range(6))
def test_data_is_read_as_pickle_does(protocol):
    loaded = _loads(pickle.dumps(CONTENT, protocol))
    assert _equal(CONTENT, loaded)
    assert loaded["fortran"].shape == (2, 3) and loaded["big"].dtype == np.int16


def test_python_2s_arrays_are_read():
    """numpy's old module, and data as a text of bytes."""
    array = np.array([0, 1, 1], "<i8")
    data = "".join(f"\\x{byte:02x}" for byte in array.tobytes())
    program = (
        "(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\n"
        "S'b'\np5\ntp6\nRp7\n(I1\n(I3\ntp8\ncnumpy\ndtype\np9\n(S'i8'\np10\nI0\nI1\ntp11\nRp12\n"
        f"(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'{data}'\np15\ntp16\nbs."
    )
    np.testing.assert_array_equal(_loads(program.encode())["a"], array)


class _Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


MALICIOUS = [
    _Runs(os.system, "touch ran"),
    _Runs(eval, "open('ran', 'w')"),
    _Runs(exec, "open('ran', 'w')"),
    _Runs(getattr, 1, "real"),
    _Runs(np.load, "ran"),
    _Runs(np.memmap, "ran", "f4", "w+", 0, (3,)),
    _Runs(open, "ran", "w"),
    _Runs(bytearray, 1 << 40),
    _Runs(io.BytesIO, b""),
    _Runs(collections.Counter, ()),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("thing", MALICIOUS, ids=lambda t: t.call[0].__name__)
def test_what_could_run_code_is_refused(tmp_path, monkeypatch, thing, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="gt.pickle: expected labels, found the name .*isn't load"):
        _loads(pickle.dumps({"a": [thing]}, protocol))
    assert not list(tmp_path.iterdir())


ARRAY = "cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I{n}\nt"
DTYPE = "cnumpy\ndtype\n({code}I0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI{flags}\ntb"


@pytest.mark.parametrize(
    "program",
    [
        # An array of objects whose type says that it has none: numbers would become addresses.
        (ARRAY.format(n=1) + DTYPE.format(code="S'O8'\n", flags=0)
         + "I00\nS'AAAAAAAA'\ntb.").encode(),
        (ARRAY.format(n=2**40) + DTYPE.format(code="S'i8'\n", flags=0) + "I00\nS''\ntb.").encode(),
        (ARRAY.format(n=-1) + DTYPE.format(code="S'i8'\n", flags=0) + "I00\nS''\ntb.").encode(),
        (ARRAY.format(n=1) + DTYPE.format(code="S'V8'\n", flags=0)
         + "I00\nS'AAAAAAAA'\ntb.").encode(),
        # More memory than the file has bytes.
        pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 40) + b".",
        pickle.BINBYTES8 + struct.pack("<Q", 1 << 40) + b".",
        pickle.LONG4 + struct.pack("<i", (1 << 31) - 1) + b".",
        b"]" + pickle.LONG_BINPUT + struct.pack("<I", (1 << 32) - 1) + b"a.",
        # A key whose hash never ends, a list in itself, a tuple of tuples of tuples ...
        b"}" + b")" * 1 + b"\x85" * 100_000 + b"Ns.",
        b"]q\x00h\x00a.",
        b")" + b"\x85" * 100_000 + b".",
        b")q\x00" + b"".join(b"h%c" % n * 2 + b"\x86q%c" % (n + 1) for n in range(60)) + b".",
        # Attributes, instances, persistent ids, extensions.
        b"cbuiltins\ndict\n)R}S'x'\nI1\nsb.",
        b"(ios\nsystem\n.", b"(cos\nsystem\no.", b"Pid\n.", b"\x82\x01.",
        b"cbuiltins\nlist.append\n.", b"\x8c\x08builtins\x8c\x04eval\x93.",
        b"", b".", b"N", b"\x80\xff.", b"not a pickle at all",
    ],
)  # fmt: skip
def test_programs_written_by_hand_are_refused(program):
    with pytest.raises(UserError, match="gt.pickle: expected labels, found"):
        _loads(program)


SEEDS = [pickle.dumps(CONTENT, protocol) for protocol in range(6)]
CODES = bytes(ord(code.code) for code in pickletools.opcodes)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(st.integers(0, 4000), st.integers(0, 6), st.binary(max_size=6)), max_size=6
    ),
    end=st.integers(1, 4000),
)
def test_damaged_pickles_give_one_line(seed, edits, end):
    content = bytearray(seed)
    for place, removed, added in edits:
        place %= len(content) + 1
        content[place : place + removed] = added
    _must_be_data_or_refused(bytes(content[:end]))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([bytes([c]) for c in CODES]), st.binary(max_size=5),
                          st.sampled_from([b"numpy\n", b"ndarray\n", b"dtype\n", b"builtins\n",
                                           b"set\n", b"dict\n", b"I1\n", b"(", b"t", b"R", b"b"])),
                max_size=30))  # fmt: skip
def test_random_programs_give_one_line(parts):
    _must_be_data_or_refused(b"".join(parts) + b".")


def _must_be_data_or_refused(content):
    refused, loaded = "", None
    try:
        loaded = _loads(content)
    except UserError as error:
        refused = str(error)
    assert "\n" not in refused
    _require_data(loaded)


def _require_data(value):
    if isinstance(value, dict):
        for item in value.values():
            _require_data(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _require_data(item)
    else:
        assert isinstance(value, str | bytes | int | float | np.ndarray | None), type(value)
