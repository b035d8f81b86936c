"""Load a text-to-video pipeline with diffusers, and place it on a device."""

import contextlib
import gc
import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from generation import ranks
from generation.encoders import hub, pretrained
from generation.videos.presets import FRAME_ARGUMENTS, SAME_WEIGHTS
from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import diffusers


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """Turns any error in loading the model into a UserError."""
    import torch

    hub.settle(model)
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # A dozen kinds, depending on which file is wrong, and how.
        if hub.is_offline() and not hub.is_folder(model):
            found = hub.not_found("--model")
            raise UserError(
                f"--model: expected {model!r} on this machine, found {found}"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # The libraries advise to run the remote code, which is unsafe.
        reason = "code that is not run" if "remote_code" in str(error) else reason[:200]
        raise UserError(
            f"--model: expected a diffusers pipeline, found {model!r} ({reason}); give a Hub id "
            "that can be reached or a local folder"
        ) from error


def load(
    model: str,
    *,
    revision: str | None = None,
    dtype: str,
    vae_dtype: str,
    quantize: str = "none",
    text_encoders: bool = True,
) -> "diffusers.DiffusionPipeline":
    """Loads a pipeline onto the CPU.

    Args:
      model: Hub id or local folder.
      revision: branch, tag or commit on the Hub.
      dtype, vae_dtype: precision of the weights, and of the VAE's.
      quantize: none, or int8 for the weights of all transformers: Wan 2.2 has two.
      text_encoders: whether to load the text encoders; if not, prompts must be embedded already.

    Raises:
      UserError: the pipeline cannot be loaded or quantised, or does not make videos.
    """
    _require_torchao(quantize)
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    import diffusers
    import torch

    dtypes = {"default": getattr(torch, dtype), "vae": getattr(torch, vae_dtype)}
    with explained(model):
        index = diffusers.DiffusionPipeline.load_config(model, revision=revision)
        if not text_encoders:
            options |= dict.fromkeys(text_encoder_names(index))
        transformers = transformer_names(index)
        if quantize != "none" and transformers:
            options["quantization_config"] = _quantization(transformers)
        pipeline = diffusers.DiffusionPipeline.from_pretrained(model, dtype=dtypes, **options)
    if not set(FRAME_ARGUMENTS) & set(inspect.signature(pipeline.__call__).parameters):
        raise UserError(
            f"--model: expected a pipeline that makes videos, found {type(pipeline).__name__} in "
            f"{model!r}; give a text-to-video or image-to-video model"
        )
    if quantize != "none" and not transformers:
        raise UserError(
            f"--quantize: expected a pipeline with a transformer, found {type(pipeline).__name__}; "
            "leave it out"
        )
    pipeline.set_progress_bar_config(disable=None, desc="denoising", leave=False, position=1)
    return pipeline


def _require_torchao(quantize: str) -> None:
    if quantize != "none" and importlib.util.find_spec("torchao") is None:
        raise UserError(
            f"--quantize={quantize}: expected torchao to be installed, found none; "
            "pip install '.[quantize]'"
        )


def _quantization(transformers: Sequence[str]) -> "diffusers.PipelineQuantizationConfig":
    """Returns the quantisation of these components to int8."""
    from diffusers import PipelineQuantizationConfig, TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    return PipelineQuantizationConfig(quant_mapping=dict.fromkeys(transformers, config))


def transformer_names(index: Mapping[str, Any]) -> list[str]:
    """Returns the names of the transformers of a pipeline's index that have weights."""
    return [
        name
        for name, library in index.items()
        if name.startswith("transformer") and isinstance(library, list) and None not in library
    ]


def text_encoder_names(components: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Returns the names of a pipeline's text encoders."""
    return [name for name in components if name.startswith("text_encoder")]


def drop_text_encoders(pipeline: "diffusers.DiffusionPipeline") -> None:
    """Drops the text encoders and frees their memory."""
    import torch

    for name in text_encoder_names(pipeline.components):
        setattr(pipeline, name, None)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def from_images(pipeline: "diffusers.DiffusionPipeline") -> "diffusers.DiffusionPipeline":
    """Returns the pipeline with the same weights that takes a first frame.

    Raises:
      UserError: there is none.
    """
    if "image" in inspect.signature(pipeline.__call__).parameters:
        return pipeline
    import diffusers

    name = SAME_WEIGHTS.get(type(pipeline).__name__)
    if name is None:
        raise UserError(
            f"--first_frames: expected a pipeline that takes an image, found "
            f"{type(pipeline).__name__}; give an image-to-video model, e.g. "
            "--generator=cogvideox-5b-i2v"
        )
    image_pipeline = getattr(diffusers, name)(**pipeline.components)
    image_pipeline.set_progress_bar_config(**pipeline._progress_bar_config)
    return image_pipeline


def pick_device(device: str, offload: str) -> str:
    """Returns the device to run on: the given one, else this rank's GPU, else the CPU.

    Raises:
      UserError: there is no such device, or offloading is asked for without a GPU.
    """
    import torch

    device = pretrained.choose_device(device or ranks.this_ranks_device())
    if offload != "none" and torch.device(device).type == "cpu":
        raise UserError(
            f"--offload={offload}: expected a GPU to take the weights from, found the CPU alone; "
            "leave it out"
        )
    return device


def set_up_vae(pipeline: "diffusers.DiffusionPipeline", *, tiling: bool, slicing: bool) -> None:
    """Turns on decoding in tiles or video by video; raises UserError if it is unsupported."""
    for is_wanted, method in ((tiling, "enable_tiling"), (slicing, "enable_slicing")):
        if is_wanted and not hasattr(pipeline.vae, method):
            raise UserError(
                f"--vae_{method.removeprefix('enable_')}: expected a VAE that supports it, found "
                f"{type(pipeline.vae).__name__}; leave it out"
            )
        if is_wanted:
            getattr(pipeline.vae, method)()


def place(pipeline: "diffusers.DiffusionPipeline", device: str, offload: str) -> None:
    """Moves a pipeline to its device, at once or piece by piece when a piece is used."""
    if offload == "none":
        pipeline.to(device)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)


def ran_out_of_memory(error: Exception) -> bool:
    """Returns whether memory ran out; if so, frees cached memory."""
    import torch

    if not isinstance(error, torch.OutOfMemoryError | MemoryError):
        return False
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
