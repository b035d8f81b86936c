"""Random damage to files, as hypothesis draws it."""

import json
import pickle

from hypothesis import strategies

# Values that a field of JSON may be replaced by.
ODD = (
    *(None, True, False, -1, 0, 1, 2**31, 10**30, -0.5, 1e300, 1e-300, float("nan"), float("inf")),
    *("", "x", "x" * 300, "\udcff", "\ud800", "a\x00b", "../../etc/passwd", "/dev/zero", "-", "é"),
    *([], {}, [[]], [None], {"": 0}, [0, 0], ["a"] * 50, {"id": "x"}),
)
DEEP = b"[" * 100_000


class _Payload:
    """Makes a folder when it is unpickled, which nothing may do."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        import os

        return os.mkdir, (self._path,)


def payload(path):
    """Returns a pickle that makes the folder `path`."""
    return pickle.dumps(_Payload(str(path)))


@strategies.composite
def damaged(draw, content, marker):
    """Draws another content for a file.

    Args:
      draw: hypothesis' own.
      content: the sound bytes.
      marker: path of a folder that a pickle in the file would make.
    """
    ways = [_flipped, _cut, _zeroed, _repeated, _inserted, _replaced]
    if content[:1] in b"{[":
        ways += [_other_json] * 6
    way = draw(strategies.sampled_from(ways))
    return way(draw, content, marker)


def _place(draw, content):
    return draw(strategies.integers(0, max(len(content) - 1, 0)))


def _flipped(draw, content, _):
    result = bytearray(content)
    for _ in range(draw(strategies.integers(1, 8)) if content else 0):
        result[_place(draw, content)] ^= 1 << draw(strategies.integers(0, 7))
    return bytes(result)


def _cut(draw, content, _):
    return content[: _place(draw, content)]


def _span(draw, content):
    start = _place(draw, content)
    return start, min(len(content), start + draw(strategies.integers(1, 4096)))


def _zeroed(draw, content, _):
    start, end = _span(draw, content)
    return content[:start] + bytes(end - start) + content[end:]


def _repeated(draw, content, _):
    start, end = _span(draw, content)
    return content[:end] + content[start:end] + content[end:]


def _inserted(draw, content, _):
    place = _place(draw, content)
    return content[:place] + draw(strategies.binary(min_size=1, max_size=64)) + content[place:]


def _replaced(draw, content, marker):
    # A pickle alone, in an .npy's header, deep nesting, a byte order mark, nothing.
    pickled = payload(marker)
    header = str({"descr": "|O", "fortran_order": False, "shape": (1,)}).ljust(117) + "\n"
    npy = b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + pickled
    others = [b"", pickled, npy, DEEP, b"\xef\xbb\xbf" + content, b"\x00" * 64, b"\xff\xfe\x00"]
    return draw(strategies.sampled_from(others))


def _other_json(draw, content, marker):
    """Another value in a JSON file or in one line of a file of JSON lines."""
    lines = content.split(b"\n")
    number = draw(strategies.integers(0, len(lines) - 1))
    for text, put in (
        (content, lambda new: new),
        (lines[number], lambda new: b"\n".join([*lines[:number], new, *lines[number + 1 :]])),
    ):
        try:
            value = json.loads(text)
        except ValueError:
            continue
        return put(json.dumps(_changed(draw, value)).encode("utf-8", "surrogatepass"))
    return _cut(draw, content, marker)


def _changed(draw, value):
    if isinstance(value, dict | list) and value and draw(strategies.integers(0, 3)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(strategies.sampled_from(keys))
        result = value.copy()
        action = draw(strategies.sampled_from(["deeper", "deeper", "remove", "rename", "again"]))
        if action == "deeper":
            result[key] = _changed(draw, value[key])
        elif action == "remove":
            del result[key]
        elif isinstance(value, dict):
            new = draw(strategies.sampled_from(["", "../x", "a\x00", "é", "x" * 300, "a.npy"]))
            result[new] = result[key] if action == "again" else result.pop(key)
        else:
            result.append(value[key])
        return result
    return draw(strategies.sampled_from(ODD))
