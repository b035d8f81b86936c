"""Presets of published text-to-video models, and loading any of them with diffusers."""

import contextlib
import gc
import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from generation import ranks
from generation.encoders import pretrained
from generation.videos.presets import FRAME_ARGUMENTS, SAME_WEIGHTS
from gvvad_jax.command import UserError


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """What goes wrong in loading the model becomes a UserError."""
    import torch

    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # Of a dozen kinds, depending on which file is wrong in what way.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # The libraries' own advice on that isn't passed on.
        reason = "code that isn't run" if "remote_code" in str(error) else reason[:200]
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
) -> Any:
    """Loads a pipeline, on the CPU.

    Args:
      model: Hub id or local folder.
      revision: branch, tag or commit on the Hub.
      dtype, vae_dtype: of the weights.
      quantize: int8 stores the transformer's weights so.
      text_encoders: load them; without, prompts have to be embedded already.

    Raises:
      UserError: it can't be loaded, isn't for videos, or can't be quantized.
    """
    options = {"revision": revision, "quantization_config": _quantization(quantize)}
    options = {name: value for name, value in options.items() if value is not None}
    import diffusers
    import torch

    dtypes = {"default": getattr(torch, dtype), "vae": getattr(torch, vae_dtype)}
    with explained(model):
        if not text_encoders:
            index = diffusers.DiffusionPipeline.load_config(model, revision=revision)
            options |= dict.fromkeys(text_encoder_names(index))
        pipeline = diffusers.DiffusionPipeline.from_pretrained(model, dtype=dtypes, **options)
    if not set(FRAME_ARGUMENTS) & set(inspect.signature(pipeline.__call__).parameters):
        raise UserError(
            f"--model: expected a pipeline that makes videos, found {type(pipeline).__name__} in "
            f"{model!r}; give a text-to-video or image-to-video model"
        )
    if quantize != "none" and getattr(pipeline, "transformer", None) is None:
        raise UserError(
            f"--quantize: expected a pipeline with a transformer, found {type(pipeline).__name__}; "
            "leave it out"
        )
    pipeline.set_progress_bar_config(disable=None, desc="denoising", leave=False, position=1)
    return pipeline


def _quantization(quantize: str) -> Any:
    if quantize == "none":
        return None
    if importlib.util.find_spec("torchao") is None:
        raise UserError(
            f"--quantize={quantize}: expected torchao to be installed, found none; "
            "pip install torchao"
        )
    from diffusers import PipelineQuantizationConfig, TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    return PipelineQuantizationConfig(quant_mapping={"transformer": config})


def text_encoder_names(components: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Those of a pipeline's components that encode text."""
    return [name for name in components if name.startswith("text_encoder")]


def drop_text_encoders(pipeline: Any) -> None:
    """Frees their memory."""
    import torch

    for name in text_encoder_names(pipeline.components):
        setattr(pipeline, name, None)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def from_images(pipeline: Any) -> Any:
    """The pipeline that takes a first frame; raises UserError where there is none."""
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
    made = getattr(diffusers, name)(**pipeline.components)
    made.set_progress_bar_config(**pipeline._progress_bar_config)
    return made


def pick_device(device: str | None, offload: str) -> str:
    """The device to run on: the given one, else this rank's GPU, else the CPU.

    Raises:
      UserError: no such device here, or offloading to the CPU, on the CPU.
    """
    import torch

    device = pretrained.choose_device(device or ranks.this_ranks_device())
    if offload != "none" and torch.device(device).type == "cpu":
        raise UserError(
            f"--offload={offload}: expected a GPU to take the weights from, found the CPU alone; "
            "leave it out"
        )
    return device


def set_up_vae(pipeline: Any, *, tiling: bool, slicing: bool) -> None:
    """Has the VAE decode in tiles, clip by clip; raises UserError where it can't."""
    for asked, method in ((tiling, "enable_tiling"), (slicing, "enable_slicing")):
        if asked and not hasattr(pipeline.vae, method):
            raise UserError(
                f"--vae_{method.removeprefix('enable_')}: expected a VAE that can, found "
                f"{type(pipeline.vae).__name__}; leave it out"
            )
        if asked:
            getattr(pipeline.vae, method)()


def place(pipeline: Any, device: str, offload: str) -> None:
    """Moves a pipeline to where it runs, or has it moved there piece by piece."""
    if offload == "none":
        pipeline.to(device)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)


def ran_out_of_memory(error: Exception) -> bool:
    """Whether that is what an error says; frees what is cached, if so."""
    import torch

    if not isinstance(error, torch.OutOfMemoryError | MemoryError):
        return False
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def default(pipeline: Any, name: str) -> Any:
    """The value that a pipeline's call gives an argument which is left out; None: not known."""
    known = inspect.signature(pipeline.__call__).parameters
    value = known[name].default if name in known else None
    return None if value is inspect.Parameter.empty else value


def default_frames(pipeline: Any) -> int | None:
    """Frames of a clip when none are asked for; None: not known."""
    for name in FRAME_ARGUMENTS:
        if default(pipeline, name) is not None:
            return default(pipeline, name)
    # CogVideoX takes it from here. Allegro too, but in latents: `frame_step` finds it out.
    return _config(pipeline, "transformer").get("sample_frames")


def clip_size(pipeline: Any, call: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a clip, in pixels.

    Raises:
      UserError: neither the call says so nor the pipeline.
    """
    config = _config(pipeline, "transformer")
    scale = getattr(pipeline, "vae_scale_factor_spatial", 0)
    sizes = [
        call.get(name) or default(pipeline, name) or (config.get(f"sample_{name}") or 0) * scale
        for name in ("height", "width")
    ]
    if not all(sizes):
        raise UserError("--height, --width: expected the size of a clip, found none; give both")
    return tuple(sizes)


def check_frames(pipeline: Any, frames: int | None) -> int | None:
    """Frames that every clip must have, None where nobody says how many.

    Raises:
      UserError: the pipeline can't make so many.
    """
    step = frame_step(pipeline)
    if step and frames and frames % step != 1:
        lower = frames - (frames - 1) % step
        raise UserError(
            f"--num_frames: expected {step}N+1 for {type(pipeline).__name__}, found {frames}; "
            f"give {lower} or {lower + step}"
        )
    return frames or (default_frames(pipeline) if step else None)


def check_size(pipeline: Any, call: Mapping[str, Any]) -> None:
    """Raises UserError where the pipeline can't make clips of the size that the call asks for."""
    step = size_step(pipeline)
    for name in ("height", "width"):
        asked = call.get(name)
        if step and asked and asked % step:
            lower = asked - asked % step
            raise UserError(
                f"--{name}: expected a multiple of {step} for {type(pipeline).__name__}, found "
                f"{asked}; give {f'{lower} or ' if lower else ''}{lower + step}"
            )
    if not hasattr(pipeline, "check_inputs") or not {"height", "width"} & set(call):
        return
    import PIL.Image

    height, width = clip_size(pipeline, call)
    known = inspect.signature(pipeline.check_inputs).parameters
    given = {name: None for name, known_as in known.items() if known_as.default is known_as.empty}
    given |= {"prompt": "", "image": PIL.Image.new("RGB", (width, height))}
    given |= {"height": height, "width": width}
    try:
        pipeline.check_inputs(**{name: given[name] for name in given if name in known})
    except Exception as error:  # It may miss what isn't given here; that isn't about the size.
        if isinstance(error, ValueError) and "height" in str(error):
            raise UserError(
                f"--height, --width: expected a size that {type(pipeline).__name__} can make, "
                f"found {height} and {width} ({str(error).splitlines()[0]}); correct them"
            ) from error


def size_step(pipeline: Any) -> int | None:
    """What height and width must be multiples of; None where it isn't known.

    A pixel of a latent by the transformer's patch. A pipeline whose own default doesn't fit that
    follows some other rule.
    """
    scale = getattr(pipeline, "vae_scale_factor_spatial", None)
    scale = scale or getattr(pipeline, "vae_spatial_compression_ratio", None)
    if not scale:
        return None
    patch = _config(pipeline, "transformer").get("patch_size") or 1
    step = scale * (patch[-1] if isinstance(patch, Sequence) else patch)
    defaults = [default(pipeline, name) or 0 for name in ("height", "width")]
    return None if any(size % step for size in defaults) else step


def frame_step(pipeline: Any) -> int | None:
    """The K of the K*N+1 frames that a pipeline can make; None where it isn't known.

    One frame, then as many as the VAE squeezes into a latent, times as many latents as the
    transformer takes in one patch; CogVideoX's VAE also decodes latents by twos and makes frames
    up for an odd one (13 frames asked for come back as 16). A pipeline whose own default doesn't
    fit that follows some other rule.
    """
    transformer = _config(pipeline, "transformer")
    vae = getattr(pipeline, "vae", None)
    sizes = transformer.get("patch_size")
    patch = transformer.get("patch_size_t") or (sizes[0] if isinstance(sizes, Sequence) else 1)
    config = _config(pipeline, "vae")
    ratio = config.get("temporal_compression_ratio") or config.get("scale_factor_temporal")
    ratio = ratio or getattr(vae, "temporal_compression_ratio", None)
    frames = default_frames(pipeline)
    if not ratio or not frames:
        return None
    by_twos = type(vae).__name__ == "AutoencoderKLCogVideoX"
    step = ratio * patch * (vae.num_latent_frames_batch_size if by_twos else 1)
    return step if frames % step == 1 else None


def _config(pipeline: Any, component: str) -> Mapping[str, Any]:
    return getattr(getattr(pipeline, component, None), "config", None) or {}
