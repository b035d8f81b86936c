"""Text embeddings of prompts, made before the clips and kept in files until all clips are there.

A text encoder weighs as much as the rest of a text-to-video model (T5-XXL: 9.5 GB in 16 bits) and
is needed for some milliseconds a clip. So every prompt goes through it first, and then it makes
room. In files they survive a kill, other ranks need not make them again, and a finished half of a
run needs no text encoder at all.
"""

import inspect
import json
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gvvad_jax.store import digests
from gvvad_jax.store.files import write_atomically

if TYPE_CHECKING:
    import torch


# What `encode_prompt` returns, under the names that a pipeline's call takes it by: in turn of
# CogVideoX, Wan and Cosmos; of LTX, Mochi, Allegro and Sana; of EasyAnimate; of HunyuanVideo.
_LAYOUTS = (
    ("prompt_embeds", "negative_prompt_embeds"),
    (
        *("prompt_embeds", "prompt_attention_mask"),
        *("negative_prompt_embeds", "negative_prompt_attention_mask"),
    ),
    (
        *("prompt_embeds", "negative_prompt_embeds"),
        *("prompt_attention_mask", "negative_prompt_attention_mask"),
    ),
    ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask"),
)
_NEGATIVE = "negative_"


class EmbeddingFiles:
    """A folder of embeddings, each under the hash of all it depends on.

    Args:
      folder: made when something is written.
      making: everything beside the text that an embedding depends on.
    """

    def __init__(self, folder: str | os.PathLike, making: Mapping[str, Any]):
        self._folder, self._making = pathlib.Path(folder), dict(making)

    def _path(self, text: str, negative: bool) -> pathlib.Path:
        content = json.dumps([self._making, text, negative], sort_keys=True)
        return self._folder / f"{digests.of_text(content)}.safetensors"

    def has(self, text: str, negative: bool = False) -> bool:
        return self._path(text, negative).exists()

    def save(self, text: str, tensors: Mapping[str, "torch.Tensor"], negative: bool = False):
        import safetensors.torch

        self._folder.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(self._path(text, negative), safetensors.torch.save(content))

    def load(self, text: str, negative: bool = False) -> dict[str, "torch.Tensor"]:
        """Tensors by the names that the pipeline's call takes them by, each [1, ...]."""
        import safetensors.torch

        return safetensors.torch.load_file(self._path(text, negative))


def is_guided(pipeline: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether the pipeline also wants the embedding of a negative prompt."""
    known = inspect.signature(pipeline.__call__).parameters
    if "guidance_scale" not in known or not hasattr(pipeline, "encode_prompt"):
        return False
    if "do_classifier_free_guidance" not in inspect.signature(pipeline.encode_prompt).parameters:
        return False
    return arguments.get("guidance_scale", known["guidance_scale"].default) > 1


def encode(
    pipeline: Any, text: str, arguments: Mapping[str, Any], device: str, negative: str | None = None
) -> dict[str, "torch.Tensor"] | None:
    """One prompt through the pipeline's own `encode_prompt`.

    By itself, because the last bits of a matrix product depend on the size of the batch, and with
    them every pixel of a clip would depend on what else was to be made.

    Args:
      pipeline: of diffusers.
      text: the prompt.
      arguments: of the pipeline's call; what is left out there has its default there.
      device: to encode on.
      negative: the negative prompt; where given, its embedding alone comes back.

    Returns:
      Tensors by the names that the pipeline's call takes them by, each [1, ...]; None where the
      pipeline takes no embeddings or returns them in an order that isn't known here.
    """
    import torch

    call = inspect.signature(pipeline.__call__).parameters
    if not hasattr(pipeline, "encode_prompt") or "prompt_embeds" not in call:
        return None
    known = inspect.signature(pipeline.encode_prompt).parameters
    # The call may hand on other defaults than encode_prompt's own: Wan's takes 512 tokens, not 226.
    given = {name: arguments.get(name, call[name].default) for name in call if name in known}
    given = {
        name: value
        for name, value in given.items()
        if not _is_embedding(name) and value is not inspect.Parameter.empty
    } | {
        "prompt": [text],
        "negative_prompt": None if negative is None else [negative],
        "do_classifier_free_guidance": negative is not None,
        "num_videos_per_prompt": 1,
        "device": torch.device(device),
    }
    needed = {name for name, known_as in known.items() if known_as.default is known_as.empty}
    if needed - set(given):
        return None  # It looks at more than text, e.g. at the first frame.
    with torch.no_grad():
        returned = pipeline.encode_prompt(**{k: v for k, v in given.items() if k in known})
    names = next((names for names in _LAYOUTS if _fits(names, returned, call)), None)
    if names is None:
        return None
    return {
        name: tensor
        for name, tensor in zip(names, returned, strict=True)
        if tensor is not None and name.startswith(_NEGATIVE) == (negative is not None)
    }


def _is_embedding(name: str) -> bool:
    return name.endswith(("embeds", "mask"))


def _fits(names: tuple[str, ...], returned: Any, call: Mapping[str, Any]) -> bool:
    """Whether `encode_prompt` returned these; their number of axes tells masks from embeddings."""
    if not isinstance(returned, tuple) or len(returned) != len(names) or set(names) - set(call):
        return False
    axes = [2 if name.endswith("mask") or name.startswith("pooled") else 3 for name in names]
    return all(
        name.startswith(_NEGATIVE) if tensor is None else getattr(tensor, "ndim", 0) == count
        for name, tensor, count in zip(names, returned, axes, strict=True)
    )
