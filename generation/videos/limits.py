"""What a diffusers pipeline can generate: frame counts and sizes, and which flags it takes."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from generation.videos.options import DiffusersOptions
from generation.videos.presets import FRAME_ARGUMENTS
from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import diffusers

# Arguments of flags that a pipeline without them would drop without a word.
_ARGUMENTS = {
    "height": "height",
    "width": "width",
    "denoising_steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "negative_prompt": "negative_prompt",
}


def refuse_unused(
    pipeline_name: str, parameters: Mapping[str, Any], options: DiffusersOptions
) -> None:
    """Raises UserError for a flag that is given but that a pipeline's call doesn't take."""
    given = vars(options)
    for flag, argument in _ARGUMENTS.items():
        if given[flag] not in (None, "") and argument not in parameters:
            raise UserError(
                f"--{flag}: expected none for {pipeline_name}, whose call takes no {argument}, "
                f"found {given[flag]!r}; leave it out"
            )


def _default(pipeline: "diffusers.DiffusionPipeline", name: str) -> Any:
    """Returns the default of an argument of a pipeline's call; None if it has none."""
    parameters = inspect.signature(pipeline.__call__).parameters
    value = parameters[name].default if name in parameters else None
    return None if value is inspect.Parameter.empty else value


def default_frames(pipeline: "diffusers.DiffusionPipeline") -> int | None:
    """Returns the number of frames if none is given; None if it is unknown."""
    for name in FRAME_ARGUMENTS:
        if _default(pipeline, name) is not None:
            return _default(pipeline, name)
    # CogVideoX takes it from here. Allegro does too, but counts latents; `frame_step` detects that.
    return _config(pipeline, "transformer").get("sample_frames")


def video_size(pipeline: "diffusers.DiffusionPipeline", call: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the (height, width) of a generated video, in pixels.

    Raises:
      UserError: neither the call nor the pipeline specifies it.
    """
    config = _config(pipeline, "transformer")
    scale = getattr(pipeline, "vae_scale_factor_spatial", 0)
    sizes = [
        call.get(name) or _default(pipeline, name) or (config.get(f"sample_{name}") or 0) * scale
        for name in ("height", "width")
    ]
    if not all(sizes):
        raise UserError("--height, --width: expected the size of the videos, found none; give both")
    return tuple(sizes)


def check_frames(pipeline: "diffusers.DiffusionPipeline", frames: int | None) -> int | None:
    """Returns the number of frames that every video must have; None if it is unknown.

    Raises:
      UserError: the pipeline cannot generate that number.
    """
    step = frame_step(pipeline)
    if step and frames and frames % step != 1:
        lower = frames - (frames - 1) % step
        raise UserError(
            f"--num_frames: expected {step}N+1 for {type(pipeline).__name__}, found {frames}; "
            f"give {lower} or {lower + step}"
        )
    return frames or (default_frames(pipeline) if step else None)


def check_size(pipeline: "diffusers.DiffusionPipeline", call: Mapping[str, Any]) -> None:
    """Raises UserError if the pipeline cannot generate videos of the size in the call."""
    step = size_step(pipeline)
    for name in ("height", "width"):
        size = call.get(name)
        if step and size and size % step:
            lower = size - size % step
            raise UserError(
                f"--{name}: expected a multiple of {step} for {type(pipeline).__name__}, found "
                f"{size}; give {f'{lower} or ' if lower else ''}{lower + step}"
            )
    if not hasattr(pipeline, "check_inputs") or not {"height", "width"} & set(call):
        return
    import PIL.Image

    height, width = video_size(pipeline, call)
    parameters = inspect.signature(pipeline.check_inputs).parameters
    arguments = {name: None for name, p in parameters.items() if p.default is p.empty}
    arguments |= {"prompt": "", "image": PIL.Image.new("RGB", (width, height))}
    arguments |= {"height": height, "width": width}
    try:
        pipeline.check_inputs(**{k: v for k, v in arguments.items() if k in parameters})
    except Exception as error:  # It may also miss arguments that are not given here.
        if isinstance(error, ValueError) and "height" in str(error):
            raise UserError(
                f"--height, --width: expected a size that {type(pipeline).__name__} can make, "
                f"found {height} and {width} ({str(error).splitlines()[0]}); correct them"
            ) from error


def size_step(pipeline: "diffusers.DiffusionPipeline") -> int | None:
    """Returns what height and width must be multiples of; None if it is unknown.

    It is the pixels per latent times the transformer's patch. A pipeline whose own default is no
    multiple follows some other rule.
    """
    scale = getattr(pipeline, "vae_scale_factor_spatial", None)
    scale = scale or getattr(pipeline, "vae_spatial_compression_ratio", None)
    if not scale:
        return None
    patch = _config(pipeline, "transformer").get("patch_size") or 1
    step = scale * (patch[-1] if isinstance(patch, Sequence) else patch)
    defaults = [_default(pipeline, name) or 0 for name in ("height", "width")]
    return None if any(size % step for size in defaults) else step


def frame_step(pipeline: "diffusers.DiffusionPipeline") -> int | None:
    """Returns the K of the K*N+1 frames that a pipeline can generate; None if it is unknown.

    K is the number of frames per latent of the VAE, times the number of latents per patch of the
    transformer. CogVideoX's VAE also decodes latents in pairs and invents frames for an odd one (13
    requested frames come back as 16). A pipeline whose own default does not fit follows some other
    rule.
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


def _config(pipeline: "diffusers.DiffusionPipeline", component: str) -> Mapping[str, Any]:
    return getattr(getattr(pipeline, component, None), "config", None) or {}
