"""Embed prompts before any video is generated, and keep the embeddings in files until the end.

A text encoder takes as much memory as the rest of a text-to-video model (T5-XXL: 9.5 GB in 16 bits)
but is needed for milliseconds per video. So all prompts are embedded first, and then its memory is
freed. Files survive a kill, other ranks can use them, and a resumed run needs no text encoder.
"""

import inspect
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gvvad_jax.store import digests
from gvvad_jax.store.files import write_atomically

if TYPE_CHECKING:
    import diffusers
    import torch


# The results of `encode_prompt`, by their names as arguments of the pipeline's call. In turn:
# CogVideoX, Wan and Cosmos; LTX, Mochi, Allegro and Sana; EasyAnimate; HunyuanVideo.
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
    """A folder of embeddings, each under the digest of all that it depends on.

    Args:
      folder: the folder; it is created when an embedding is saved.
      depends_on: everything beside the text that an embedding depends on.
    """

    def __init__(self, folder: str | os.PathLike, depends_on: Mapping[str, Any]):
        self._folder, self._depends_on = pathlib.Path(folder), dict(depends_on)

    def _path(self, text: str, negative: bool) -> pathlib.Path:
        digest = digests.of_json([self._depends_on, text, negative])
        return self._folder / f"{digest}.safetensors"

    def has(self, text: str, negative: bool = False) -> bool:
        """Returns whether a text's embedding is there."""
        return self._path(text, negative).exists()

    def save(self, text: str, tensors: Mapping[str, "torch.Tensor"], negative: bool = False):
        """Writes a text's embedding."""
        import safetensors.torch

        self._folder.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(self._path(text, negative), safetensors.torch.save(content))

    def load(self, text: str, negative: bool = False) -> dict[str, "torch.Tensor"]:
        """Returns tensors by their names as arguments of the call, each [1, ...]."""
        import safetensors.torch

        path = self._path(text, negative)
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError:
            path.unlink(missing_ok=True)  # It is damaged; the next run embeds the text again.
            raise


def is_guided(pipeline: "diffusers.DiffusionPipeline", arguments: Mapping[str, Any]) -> bool:
    """Returns whether the pipeline also takes the embedding of a negative prompt."""
    parameters = inspect.signature(pipeline.__call__).parameters
    if "guidance_scale" not in parameters or not hasattr(pipeline, "encode_prompt"):
        return False
    if "do_classifier_free_guidance" not in inspect.signature(pipeline.encode_prompt).parameters:
        return False
    return arguments.get("guidance_scale", parameters["guidance_scale"].default) > 1


def encode(
    pipeline: "diffusers.DiffusionPipeline",
    text: str,
    arguments: Mapping[str, Any],
    device: str,
    negative: str | None = None,
) -> dict[str, "torch.Tensor"] | None:
    """Embeds one prompt with the pipeline's own `encode_prompt`.

    Prompts are embedded one by one, because the last bits of a matrix product depend on the batch:
    otherwise every pixel would depend on which other videos are generated.

    Args:
      pipeline: the pipeline, with its text encoder on `device`.
      text: the prompt.
      arguments: arguments of the pipeline's call; others have the call's defaults.
      device: device of the text encoder.
      negative: the negative prompt; if it is given, its embedding alone is returned.

    Returns:
      Tensors by their names as arguments of the call, each [1, ...]; None if the pipeline takes no
      embeddings or returns them in an unknown order.
    """
    import torch

    call = inspect.signature(pipeline.__call__).parameters
    if not hasattr(pipeline, "encode_prompt") or "prompt_embeds" not in call:
        return None
    parameters = inspect.signature(pipeline.encode_prompt).parameters
    # The call's defaults may differ from encode_prompt's: Wan's call takes 512 tokens, not 226.
    given = {name: arguments.get(name, call[name].default) for name in call if name in parameters}
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
    required = {name for name, p in parameters.items() if p.default is p.empty}
    if required - set(given):
        return None  # It needs more than text, e.g. the first frame.
    with torch.no_grad():
        returned = pipeline.encode_prompt(**{k: v for k, v in given.items() if k in parameters})
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
    """Returns whether `encode_prompt` returned a layout; masks have fewer axes than embeddings."""
    if not isinstance(returned, tuple) or len(returned) != len(names) or set(names) - set(call):
        return False
    axes = [2 if name.endswith("mask") or name.startswith("pooled") else 3 for name in names]
    return all(
        name.startswith(_NEGATIVE) if tensor is None else getattr(tensor, "ndim", 0) == count
        for name, tensor, count in zip(names, returned, axes, strict=True)
    )
