"""Published checkpoints, by name or from a folder: whole, or a user's mistake in one line.

transformers fills what a checkpoint lacks with random numbers (or with whatever is in memory) and
warns; a caption or an embedding made so looks like any other. Here that is an error.
"""

import contextlib
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gvvad_jax.command import UserError
from gvvad_jax.store import digests

DTYPES = ("float32", "float16", "bfloat16")
# Where weights are, in the order in which transformers looks; an index names several files.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SAMPLE_BYTES = 1 << 20


def library() -> Any:
    """The transformers module; raises UserError where it isn't installed."""
    try:
        import torch  # noqa: F401  transformers without it only says so when a model is made.
        import transformers
    except ImportError as error:
        raise UserError(
            f"expected PyTorch and transformers, found {error}; pip install '.[generation]'"
        ) from error
    return transformers


def name_of(weights: str) -> str:
    """A checkpoint's name without its owner or folder, for ids."""
    return str(weights).rstrip("/").rsplit("/", 1)[-1]


def known_digest(weights: str) -> str | None:
    """12 hexadecimal digits that tell checkpoints apart, whatever their folders are called.

    Of config.json and each file of weights: its size, its first and its last MiB. A Hub's name and
    a copy of its files give the same.

    Args:
      weights: a checkpoint's name or folder.

    Returns:
      None where its files aren't here.
    """
    paths = _files_of(weights, _cached)
    if paths is None:
        return None
    digest = hashlib.sha256()
    for path in paths:
        size, first, last = digests.read_ends(path, _SAMPLE_BYTES)
        digest.update(size.to_bytes(8, "little") + first + last)
    return digest.hexdigest()[:12]


def digest(weights: str) -> str:
    """The same, after fetching what isn't here; call it inside `reading`."""
    found = known_digest(weights)
    if found is None and not os.path.isdir(weights):
        _files_of(weights, _fetched)
        found = known_digest(weights)
    if found is None:
        raise OSError(f"no config.json with {' or '.join(_WEIGHTS)}, or not all that an index says")
    return found


def _files_of(weights: str, locate: Callable[[str, str], str | None]) -> list[str] | None:
    """config.json and the files of weights that transformers would read; None if one isn't there.

    Args:
      weights: a checkpoint's name or folder.
      locate: (weights, name of a file) -> its path, None if it isn't there.
    """
    config = locate(weights, "config.json")
    for name in _WEIGHTS if config else ():
        if whole := locate(weights, name):
            return [config, whole]
        if index := locate(weights, f"{name}.index.json"):
            with open(index, encoding="utf-8") as file:
                parts = sorted(map(os.path.basename, set(json.load(file)["weight_map"].values())))
            paths = [locate(weights, part) for part in parts]
            return None if None in paths else [config, *paths]
    return None


def _cached(weights: str, name: str) -> str | None:
    if os.path.isdir(weights):
        path = os.path.join(weights, name)
        return path if os.path.isfile(path) else None
    try:
        import huggingface_hub
    except ImportError:  # What needs weights says so.
        return None
    try:
        path = huggingface_hub.try_to_load_from_cache(weights, name)
    except huggingface_hub.errors.HFValidationError:  # A folder that isn't there.
        return None
    return path if isinstance(path, str) else None


def _fetched(weights: str, name: str) -> str | None:
    from transformers.utils import cached_file

    return cached_file(weights, name, _raise_exceptions_for_missing_entries=False)


def usual_dtype(device: str) -> str:
    """What models compute in unless told: float16 on a GPU, float32 elsewhere."""
    return "float16" if device.startswith("cuda") else "float32"


def choose_device(device: str | None) -> str:
    """The device asked for, else a GPU where there is one; raises UserError for no device."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device={device}: expected one that PyTorch has here, found {_first_line(error)}; "
            "give cpu, or leave it out"
        ) from error
    return device


def choose_batch_size(batch_size: int | None, device: str) -> int:
    """The one asked for, else 16 on a GPU; a CPU, which gains nothing by more, takes one."""
    if batch_size is None:
        return 1 if device == "cpu" else 16
    return batch_size


def choose_dtype(dtype: str) -> Any:
    """The torch dtype of this name; raises UserError for one that isn't in DTYPES."""
    import torch

    if dtype not in DTYPES:
        raise UserError(f"dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    return getattr(torch, dtype)


@contextlib.contextmanager
def reading(weights: str, expected: str) -> Iterator[None]:
    """Turns whatever the libraries raise for a checkpoint they can't read into a UserError.

    Args:
      weights: the checkpoint's name or folder.
      expected: what it should be, e.g. "a CLIP checkpoint".
    """
    import torch
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    # What they warn of is an error here, told in `load`.
    logging.set_verbosity_error()
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # Of a dozen kinds, depending on which file is wrong in what way.
        raise UserError(
            f"{weights}: expected {expected}, found {_found(weights, error)}; give the folder of "
            "a downloaded one"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def load(
    model_class: Any,
    weights: str,
    *,
    dtype: Any,
    device: str,
    model_types: Sequence[str] = (),
    may_lack: Sequence[str] = (),
    **kwargs: Any,
) -> Any:
    """A model for inference with every weight from the checkpoint; call it inside `reading`.

    Args:
      model_class: with transformers' from_pretrained.
      weights: the checkpoint's name or folder.
      dtype: torch's.
      device: where the model goes.
      model_types: what the checkpoint's config may call itself; anything unless told.
      may_lack: parts of names of weights that aren't used.
      **kwargs: for from_pretrained.

    Raises:
      UserError: the checkpoint is another model's or lacks weights.
    """
    if model_types:
        found = library().PreTrainedConfig.get_config_dict(weights)[0].get("model_type")
        if found not in model_types:
            raise UserError(
                f"{weights}: expected a checkpoint of {' or '.join(model_types)}, found one of "
                f"{found}; give another"
            )
    model, report = model_class.from_pretrained(
        weights, dtype=dtype, output_loading_info=True, **kwargs
    )
    # Old checkpoints hold position_ids, new ones don't; they are no weights.
    unused = (*may_lack, "position_ids")
    missing = [n for n in sorted(report["missing_keys"]) if not any(part in n for part in unused)]
    if missing:
        raise UserError(
            f"{weights}: expected all weights of {model_class.__name__}, found {len(missing)} "
            f"missing, {missing[0]!r} first; it is a checkpoint of another model, or damaged"
        )
    return model.to(device).eval()


def _found(weights: str, error: Exception) -> str:
    if weights.startswith(("/", ".", "~")) and not os.path.isdir(weights):
        return "no such folder"
    if isinstance(error, pickle.UnpicklingError):
        # PyTorch's own message advises to load the file unsafely: not passed on.
        return "another kind of file, or objects besides tensors"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".")[:200]
