"""Reads pickles of arrays and builtin containers, and nothing else.

A pickle is a program; this reads the part of its language that data needs. No class is ever looked
up: names that numpy writes stand for functions of this module, and every other name is refused.
numpy's own classes aren't used either, because their `__setstate__` doesn't check what the file
says: a type that claims to hold no objects can turn numbers into addresses.
"""

import io
import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.files import require_regular, shorten

_MAX_BYTES = 4 << 30
# Values in all, and containers in containers; more than this is no ground truth.
_MAX_VALUES, _MAX_DEPTH = 8_000_000, 16
_SCALARS = (str, bytes, int, float, bool, type(None))
_DAMAGED = (
    *(pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(EOFError, OverflowError, MemoryError, RecursionError, AssertionError, struct.error),
)


def load(path: str, expected: str) -> Any:
    """Loads a pickle of arrays, numbers, texts, lists, tuples, sets and dictionaries.

    Args:
      path: the file.
      expected: what it should hold, for messages.

    Returns:
      The content: containers of arrays and plain values.

    Raises:
      UserError: the file is missing, damaged, or holds anything else.
    """
    require_regular(path, expected, _MAX_BYTES)
    with open(path, "rb") as file:
        return loads(file.read(), path, expected)


def loads(content: bytes, path: str, expected: str) -> Any:
    """Loads a pickle from bytes; see `load`."""
    try:
        return _finish(_Unpickler(content).load(), [_MAX_VALUES], 0)
    except _Refused as error:
        raise UserError(
            f"{path}: expected {expected}, found {error}, which isn't loaded, because it could run "
            "code; save arrays and lists"
        ) from error
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise UserError(f"{path}: expected {expected}, found a damaged file ({reason})") from error


class _Refused(Exception):
    """The pickle names something besides data."""


class _Dtype:
    """Stands for numpy.dtype: a code such as "f8", and the byte order that its state adds."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a type of numbers without a byte order")
        self.order = state[1]

    def resolve(self) -> np.dtype:
        code = self.code.decode("latin-1") if isinstance(self.code, bytes) else self.code
        if code in ("O", "O8", "|O"):
            return np.dtype(object)
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?([biuf]\d{1,2}|\?)", code):
            raise ValueError(f"an array of {shorten(str(code))}")
        dtype = np.dtype(code)
        return dtype if self.order in ("|", "=") else dtype.newbyteorder(self.order)


class _Array:
    """Stands for numpy.ndarray until its state is known."""

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(shape, dtype, bool(fortran), data)

    def fill(self, shape: Any, dtype: Any, fortran: bool, data: Any) -> None:
        lengths = shape if isinstance(shape, tuple) else (shape,)
        if not isinstance(dtype, _Dtype) or not all(
            type(length) is int and length >= 0 for length in lengths
        ):
            raise ValueError("an array without a shape or a type")
        resolved, count = dtype.resolve(), math.prod(lengths)
        if resolved.kind == "O":
            if not isinstance(data, list) or len(data) != count:
                raise ValueError("an array of objects that lacks some")
            # The objects are arrays and containers themselves; their shape is of no use.
            self.value = data
            return
        data = data.encode("latin-1") if isinstance(data, str) else data
        if not isinstance(data, bytes) or len(data) != count * resolved.itemsize:
            raise ValueError("an array of another length than its shape")
        array = np.frombuffer(data, resolved)
        array = array.reshape(lengths[::-1]).T if fortran else array.reshape(lengths)
        self.value = array.astype(resolved.newbyteorder("="))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any = b"", *_: Any) -> _Array:
    array = _Array()
    array.fill((), dtype, False, data)
    return array


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.fill(shape, dtype, order == "F", data)
    return array


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "bytes"):
        raise _Refused(f"an encoding {shorten(str(encoding))}")
    return text.encode("latin-1")


def _container(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(items: Any = (), *_: Any) -> Any:
        if not isinstance(items, list | tuple | dict | set | frozenset):
            raise ValueError("a container of something else")
        if kind is dict and not isinstance(items, dict):
            items = [tuple(pair) for pair in items]
            _require_keys([key for key, _ in items])
        elif kind in (set, frozenset):
            _require_keys(list(items))
        return kind(items)

    return make


def _require_keys(keys: list[Any]) -> None:
    # Hashing a tuple of tuples of tuples, without end, would end the process.
    if not all(type(key) in _SCALARS for key in keys):
        raise ValueError("keys that aren't texts or numbers")


_NUMPY: dict[str, Callable[..., Any]] = {
    "ndarray": _Array, "dtype": _Dtype, "_reconstruct": _reconstruct, "scalar": _scalar,
    "_frombuffer": _from_buffer,
}  # fmt: skip
_NUMPY_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray",
                  "numpy.core.numeric", "numpy._core.numeric")  # fmt: skip
_CONTAINERS = {"list": list, "tuple": tuple, "dict": dict, "set": set, "frozenset": frozenset}


def _empty_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise ValueError("bytes of something else")
    return b""


def _no_default(*_: Any) -> dict[Any, Any]:
    return {}


def _find(module: str, name: str) -> Callable[..., Any]:
    if module in _NUMPY_MODULES and name in _NUMPY:
        return _NUMPY[name]
    if module in ("builtins", "__builtin__") and name in _CONTAINERS:
        return _container(_CONTAINERS[name])
    if module in ("builtins", "__builtin__") and name == "bytes":
        return _empty_bytes
    if (module, name) == ("collections", "OrderedDict"):
        return _container(dict)
    if (module, name) == ("collections", "defaultdict"):
        return _no_default
    if (module, name) == ("_codecs", "encode"):
        return _encode
    raise _Refused(f"the name {shorten(f'{module}.{name}')}")


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Python's own unpickler, written in Python: it takes no memory that its file doesn't fill."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]
    for _code in (pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4,
                  pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.NEXT_BUFFER,
                  pickle.READONLY_BUFFER):  # fmt: skip
        del dispatch[_code[0]]

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1", fix_imports=False)

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        return _find(module, name)

    def load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if not isinstance(instance, _Array | _Dtype):
            raise _Refused(f"the state of a {type(instance).__name__}")
        instance.__setstate__(state)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not callable(function) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that isn't a function")
        self.stack[-1] = function(*arguments)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key], [value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(items[::2], items[1::2])

    def _set(self, keys: list[Any], values: list[Any]) -> None:
        _require_keys(keys)
        if not isinstance(self.stack[-1], dict) or len(keys) != len(values):
            raise ValueError("an item of something that isn't a dictionary")
        self.stack[-1].update(zip(keys, values, strict=True))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items[::2], items[1::2])

    def load_additems(self) -> None:
        items = self.pop_mark()
        _require_keys(items)
        self.stack[-1].update(items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        _require_keys(items)
        self.append(frozenset(items))

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("an item of something that isn't a list")
        self.stack[-1].extend(values)

    def load_bytearray8(self) -> None:
        # Python's own makes room for as many bytes as the file says, before it has read any.
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    for _name in ("build", "reduce", "setitem", "setitems", "dict", "additems", "frozenset",
                  "append", "appends", "bytearray8"):  # fmt: skip
        dispatch[getattr(pickle, _name.upper())[0]] = locals()[f"load_{_name}"]


def _finish(value: Any, left: list[int], depth: int) -> Any:
    """Replaces stand-ins by their arrays; refuses values that repeat or nest without end."""
    left[0] -= 1
    if left[0] < 0 or depth > _MAX_DEPTH:
        raise ValueError("values without end")
    if isinstance(value, _Array):
        return _finish(value.value, left, depth + 1) if isinstance(value.value, list) else (
            _filled(value.value)
        )  # fmt: skip
    if type(value) in _SCALARS:
        return value
    if isinstance(value, dict):
        return {key: _finish(item, left, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_finish(item, left, depth + 1) for item in value)
    raise ValueError("no data")


def _filled(array: Any) -> np.ndarray:
    if array is None:
        raise ValueError("an array without content")
    return array
