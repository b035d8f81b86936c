"""Finds a published detector's weights in what PyTorch saved.

Trainers save more than weights, in many shapes: below keys such as `state_dict`, with prefixes of
torch.compile (`_orig_mod.`), DataParallel (`module.`) or Lightning (`model.`), beside optimiser
state and numpy scalars. The weights are where the detectors' names are.
"""

import collections
import contextlib
import dataclasses
import math
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gvvad_jax.command import UserError

# Parts that wrappers of PyTorch add to names, at any place.
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Causes by part of PyTorch's message, whose own text advises to load the file unsafely.
_CAUSES = (
    ("TorchScript", "a TorchScript archive"),
    ("legacy .tar format", "the tar format of PyTorch before 0.4"),
    ("failed finding central directory", "a file that is cut short or damaged"),
    ("allocate memory", "tensors that don't fit into memory"),
)
# Causes by a file's first bytes.
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the file (git lfs pull)"),
    (b"<", "a web page"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89HDF", "an HDF5 file"),
)
_ANOTHER_KIND = "another kind of file, or objects besides tensors"
_REMEDY = "save it with torch.save(model.state_dict(), FILE)"


@dataclasses.dataclass(frozen=True)
class _Weights:
    """Tensors of one mapping, below one prefix of their names.

    Attributes:
      place: keys of the mapping and the prefix, e.g. "state_dict: module."; for messages.
      tensors: all tensors of the mapping, by name without the prefix.
      count: number of those whose names a detector has.
    """

    place: str
    tensors: Mapping[str, Any]
    count: int


def read(source: str) -> dict[str, np.ndarray]:
    """Reads a detector's parameters as float32 arrays by PyTorch name, without prefixes.

    Args:
      source: a file of torch.save. Mappings may be nested to any depth. Values other than tensors
        and numpy arrays are not read.

    Raises:
      UserError: no such file, one that needs more than weights_only, no tensors by name, two sets
        of weights, or tensors that are sparse, quantised, complex, not finite, or expanded beyond
        what the file holds.
    """
    content = _load(source)
    candidates = list(_candidates(content))
    if not candidates:
        raise UserError(
            f"{source}: expected tensors by name, found {type(content).__name__} of other objects; "
            + _REMEDY
        )
    best = max(candidates, key=lambda found: (found.count, len(found.tensors)))
    # A running average of the weights may lack BatchNorm's statistics.
    others = [c for c in candidates if c is not best and 2 * c.count >= best.count > 0]
    if others:
        raise UserError(
            f"{source}: expected one detector's weights, found several, at {best.place!r} and "
            f"{others[0].place!r}; save the ones to import alone, with torch.save"
        )
    _require_plain(source, best.tensors)
    state = {name: _array(value) for name, value in best.tensors.items()}
    broken = [name for name, value in state.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{source}: expected finite parameters, found {broken[0]!r} and {len(broken) - 1} more "
            "with NaN or infinity; did its training diverge?"
        )
    return state


def _load(source: str) -> Any:
    import torch

    try:
        # A pipe would be waited for, and a device read without end.
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise UserError(
                f"{source}: expected a PyTorch state dict, found no regular file; give a file"
            )
        _require_stored(source)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # A dozen types, depending on how the file is damaged.
        raise UserError(
            f"{source}: expected a PyTorch state dict that loads with weights_only, found "
            f"{_cause(source, error)}; {_REMEDY}"
        ) from error


def _numpy_globals() -> list[Any]:
    """Returns what numpy's scalars and arrays of numbers are pickled with, old and new names."""
    multiarray = np._core.multiarray
    builders = (multiarray.scalar, multiarray._reconstruct)
    old_names = [(builder, f"numpy.core.multiarray.{builder.__name__}") for builder in builders]
    kinds = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [*builders, *old_names, np.ndarray, np.dtype, *kinds]


def _require_stored(source: str) -> None:
    """Raises UserError for a zip file that is larger unpacked: torch.save never compresses."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(source) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > os.path.getsize(source):
            raise UserError(
                f"{source}: expected a file as torch.save writes it, found one that unpacks to "
                f"{unpacked} bytes; {_REMEDY}"
            )


def _cause(source: str, error: Exception) -> str:
    if reason := getattr(error, "strerror", None):
        return reason
    with contextlib.suppress(OSError), open(source, "rb") as file:
        beginning = file.read(32)
        if not beginning:
            return "an empty file"
        if re.match(rb".{8}\{\"", beginning, re.DOTALL):
            return "a safetensors file"
        for start, cause in _BEGINNINGS:
            if beginning.startswith(start):
                return cause
    message = str(error)
    # The name of a class or function that the file would have imported.
    if match := re.search(r"GLOBAL ([\w.]+)", message):
        return f"an object of {match[1]}, which could run code"
    return next((cause for part, cause in _CAUSES if part in message), _ANOTHER_KIND)


def _candidates(content: Any) -> Iterator[_Weights]:
    """Yields the tensors of each mapping, below each prefix that gives names of a detector."""
    import torch

    # A stack instead of recursion: a pickle may be nested deeply, or contain itself.
    waiting, seen = [("", content)], set()
    while waiting:
        place, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, list | tuple):
            waiting += [(f"{place}[{i}]", item) for i, item in enumerate(value)]
        if not isinstance(value, Mapping):
            continue
        waiting += [(f"{place}.{key}".lstrip("."), item) for key, item in value.items()]
        tensors: dict[str, Any] = {}
        for name, tensor in value.items():
            if isinstance(name, str) and (isinstance(tensor, torch.Tensor) or _is_numbers(tensor)):
                bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
                tensors[name if bare in value or bare in tensors else bare] = tensor
        prefixes = [prefix for name in tensors if (prefix := _prefix(name)) is not None]
        counts = collections.Counter(prefixes) or {"": 0}
        for prefix, count in counts.items() if tensors else ():
            below = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            # What isn't below the prefix may be missing there; else it is left over.
            beside = {
                f".{n}" if n in below else n: t
                for n, t in tensors.items()
                if not n.startswith(prefix)
            }
            yield _Weights(f"{place}: {prefix}".strip(": "), beside | below, count)


def _prefix(name: str) -> str | None:
    """Returns what stands before a detector's own name, at least ""; None if there is none."""
    from tools.published.names import flax_path

    parts = name.split(".")
    for i in range(len(parts)):
        if flax_path(".".join(parts[i:])) is not None:
            return "".join(f"{part}." for part in parts[:i])
    return None


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _require_plain(source: str, tensors: Mapping[str, Any]) -> None:
    """Raises UserError for tensors that aren't plain real numbers, or more than the file has."""
    import torch

    for name, tensor in tensors.items():
        if isinstance(tensor, np.ndarray):
            continue
        kind = ""
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "sparse or nested"
        elif tensor.is_quantized:
            kind = "quantised"
        elif tensor.is_complex():
            kind = "complex"
        elif tensor.device.type != "cpu":
            kind = f"without values ({tensor.device.type})"
        if kind:
            raise UserError(
                f"{source}: expected plain real tensors, found {name!r}, which is {kind}; save "
                "the detector's own parameters, dequantised and dense"
            )
    # A stored number takes a byte or more. An expanded tensor repeats one number without end.
    numbers, size = sum(math.prod(t.shape) for t in tensors.values()), os.path.getsize(source)
    if numbers > size:
        raise UserError(
            f"{source}: expected at most as many numbers as its {size} bytes, found {numbers}: "
            f"tensors that are expanded; {_REMEDY}"
        )


def _array(value: Any) -> np.ndarray:
    """Returns a tensor or an array as a float32 array."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float32)
    return value.detach().float().numpy()
