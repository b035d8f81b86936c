"""Loading of published checkpoints, by name or from a folder.

transformers fills weights that a checkpoint lacks with random numbers and only warns; the captions
or embeddings look normal. Here that is an error.
"""

import contextlib
import os
import pathlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from generation.encoders import hub
from gvvad_jax.command import UserError
from gvvad_jax.store import digests, files

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
# Files of weights in the order in which transformers looks for them; an index names several.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Other files that shape what a model computes, by what it takes: they belong to its identity.
IMAGES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
TEXTS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)
CAPTIONS = (*IMAGES, *TEXTS, "generation_config.json")
# Tokens of a checkpoint without tokenizer.json, which has them all.
_VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model")


def library() -> ModuleType:
    """Returns the transformers module; raises UserError if it or PyTorch is not installed."""
    try:
        import torch  # noqa: F401  Without it, transformers fails only when it makes a model.
        import transformers
    except ImportError as error:
        raise UserError(
            f"expected PyTorch and transformers, found {error}; pip install '.[generation]'"
        ) from error
    return transformers


def name_of(weights: str) -> str:
    """Returns a checkpoint's name without its owner or folder, for ids; however it is spelled."""
    if os.path.isdir(weights):
        folder = pathlib.Path(os.path.abspath(weights))
        hub = folder.parent.parent.name  # models--OWNER--NAME/snapshots/COMMIT
        if folder.parent.name == "snapshots" and hub.startswith("models--"):
            return hub.rsplit("--", 1)[-1]
        return folder.name
    return weights.rstrip("/").rsplit("/", 1)[-1]


def known_digest(weights: str, settings: Sequence[str]) -> str | None:
    """Returns 12 hexadecimal digits that identify a checkpoint, whatever its folder is called.

    They depend on the whole content of config.json, of each file of weights and of the settings: a
    file of the same size and ends, such as one into which a LoRA was merged, is another. A Hub name
    and a copy of its files give the same digits.

    Args:
      weights: a checkpoint's name or folder.
      settings: names of the other files that count, where there are any: IMAGES, TEXTS, CAPTIONS.

    Returns:
      The digits; None if the files are not on this machine.

    Raises:
      UserError: the index of the weights is damaged.
    """
    paths = _files_of(weights, _cached)
    if paths is None:
        return None
    if "tokenizer.json" in settings and not _cached(weights, "tokenizer.json"):
        settings = (*settings, *_VOCABULARIES)
    content = [["weights", digests.of_file(path)] for path in paths]
    content += [
        [name, digests.of_file(path)] for name in settings if (path := _cached(weights, name))
    ]
    return digests.of_json(content)[:12]


def digest(weights: str, settings: Sequence[str]) -> str:
    """Returns `known_digest` after fetching missing files; call it inside `reading`."""
    known = known_digest(weights, settings)
    if known is None and not os.path.isdir(weights):
        _files_of(weights, _fetched)
        known = known_digest(weights, settings)
    if known is None:
        raise OSError(
            f"no config.json with {' or '.join(_WEIGHTS)}, or fewer files than their index names"
        )
    return known


def _files_of(weights: str, locate: Callable[[str, str], str | None]) -> list[str] | None:
    """Returns config.json and the files of weights that transformers would read.

    Args:
      weights: a checkpoint's name or folder.
      locate: returns the path of a checkpoint's file, or None if it is missing.

    Returns:
      The paths; None if a file is missing.
    """
    config = locate(weights, "config.json")
    for name in _WEIGHTS if config else ():
        if whole := locate(weights, name):
            return [config, whole]
        if index := locate(weights, f"{name}.index.json"):
            parts = [locate(weights, part) for part in _parts(index)]
            return None if None in parts else [config, *parts]
    return None


def _parts(index: str) -> list[str]:
    """Returns the names of the files of weights that an index lists."""
    content = files.read_json(index)
    by_weight = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(by_weight, dict) or not all(isinstance(p, str) for p in by_weight.values()):
        raise UserError(
            f"{index}: expected an index of weights with a weight_map of file names, found "
            "something else; download the checkpoint again"
        )
    return sorted(map(os.path.basename, set(by_weight.values())))


def _cached(weights: str, name: str) -> str | None:
    if os.path.isdir(weights):
        path = os.path.join(weights, name)
        return path if os.path.isfile(path) else None
    try:
        import huggingface_hub
    except ImportError:  # Whatever needs the weights reports this.
        return None
    try:
        path = huggingface_hub.try_to_load_from_cache(weights, name)
    except huggingface_hub.errors.HFValidationError:  # The name of a missing folder.
        return None
    return path if isinstance(path, str) else None


def _fetched(weights: str, name: str) -> str | None:
    from transformers.utils import cached_file

    return cached_file(weights, name, _raise_exceptions_for_missing_entries=False)


def usual_dtype(device: str) -> str:
    """Returns the default number format: float16 on a GPU, else float32."""
    return "float16" if device.startswith("cuda") else "float32"


def choose_device(device: str) -> str:
    """Returns the given device, or for "" a GPU if there is one, else the CPU.

    Raises:
      UserError: PyTorch has no such device.
    """
    import torch

    if not device:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device={device}: expected a device of this machine, found {_first_line(error)}; "
            "give cpu, or leave it out"
        ) from error
    return device


def batch_size(device: str) -> int:
    """Returns 16 on a GPU and 1 on a CPU, which gains nothing from larger batches."""
    return 1 if device == "cpu" else 16


def torch_dtype(name: str) -> "torch.dtype":
    """Returns the torch dtype of this name; raises UserError if it is not one of DTYPES."""
    import torch

    if name not in DTYPES:
        raise UserError(
            f"--compute_dtype: expected one of {', '.join(DTYPES)}, found {name!r}; correct the "
            "flag"
        )
    return getattr(torch, name)


@contextlib.contextmanager
def reading(weights: str, expected: str, flag: str) -> Iterator[None]:
    """Turns everything that the libraries raise for an unreadable checkpoint into a UserError.

    Args:
      weights: the checkpoint's name or folder.
      expected: the expected kind of checkpoint, e.g. "a CLIP checkpoint".
      flag: the flag that takes its folder, e.g. "--weights".
    """
    import torch
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    # `load` raises errors for what transformers warns of.
    logging.set_verbosity_error()
    hub.settle(weights)
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # A dozen types, depending on which file is wrong and how.
        if hub.is_offline() and not hub.is_folder(weights) and known_digest(weights, ()) is None:
            problem = hub.not_found(flag)
        else:
            problem = f"{_problem(weights, error)}; give the folder of a downloaded one: {flag}"
        raise UserError(f"{weights}: expected {expected}, found {problem}") from error
    finally:
        logging.set_verbosity(verbosity)


def load(
    model_class: Any,
    weights: str,
    *,
    dtype: "torch.dtype",
    device: str,
    model_types: Sequence[str] = (),
    may_lack: Sequence[str] = (),
    **kwargs: Any,
) -> Any:
    """Loads a model for inference, all of its weights from the checkpoint.

    Call it inside `reading`.

    Args:
      model_class: a class of transformers with from_pretrained.
      weights: the checkpoint's name or folder.
      dtype: number format of the model.
      device: device of the model.
      model_types: accepted values of the config's model_type (default: any).
      may_lack: parts of names of weights that are not used.
      **kwargs: arguments of from_pretrained.

    Raises:
      UserError: the checkpoint is of another model or lacks weights.
    """
    if model_types:
        model_type = library().PreTrainedConfig.get_config_dict(weights)[0].get("model_type")
        if model_type not in model_types:
            raise UserError(
                f"{weights}: expected a checkpoint of {' or '.join(model_types)}, found one of "
                f"{model_type}; give another"
            )
    model, report = model_class.from_pretrained(
        weights, dtype=dtype, output_loading_info=True, **kwargs
    )
    # Only old checkpoints hold position_ids, which are not weights.
    unused = (*may_lack, "position_ids")
    missing = [n for n in sorted(report["missing_keys"]) if not any(part in n for part in unused)]
    if missing:
        raise UserError(
            f"{weights}: expected all weights of {model_class.__name__}, found {len(missing)} "
            f"missing, {missing[0]!r} first; it is a checkpoint of another model, or damaged"
        )
    return model.to(device).eval()


def _problem(weights: str, error: Exception) -> str:
    if hub.is_folder(weights) and not os.path.isdir(weights):
        return "no such folder"
    if isinstance(error, pickle.UnpicklingError):
        # PyTorch's own message is not shown, because it advises to load the file unsafely.
        return "another kind of file, or objects besides tensors"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".")[:200]
