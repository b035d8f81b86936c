"""Flags that choose a text-to-video model and its numbers."""

import dataclasses
import json
from typing import Any

from generation.ranks import DEVICE
from generation.videos import presets
from gvvad_jax.command import UserError, check, group

VIDEO = group("Generated videos")
MODEL = group("Text-to-video model")


# Shared by the commands that generate videos.
LIKE = VIDEO(
    "",
    "Store of real videos whose median frame rate and length the generated ones take, as far as "
    "the generator can; --fps and --num_frames win (default: the generator's own).",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusersOptions:
    """A pipeline of diffusers and how to call it; see `DiffusersBackend`.

    Fields that are empty or None take the generator's published number, else the pipeline's own.
    The built-in world uses `height`, `width`, `num_frames` and `fps` too.
    """

    generator: str = MODEL(
        "",
        f"Published model with its numbers: {', '.join(presets.PRESETS)} (default: cogvideox-2b "
        "unless --model names another).",
    )
    model: str = MODEL(
        "", "Hub id or folder of a pipeline; with --generator, weights to use in its place."
    )
    revision: str = MODEL("", "Branch, tag or commit on the Hub (default: the main branch).")
    model_dtype: str = MODEL(
        "",
        "Precision of the weights (default: the generator's, else bfloat16).",
        choices=("", *presets.DTYPES),
    )
    vae_dtype: str = MODEL(
        "",
        "Precision of the VAE's weights (default: the generator's, else --model_dtype).",
        choices=("", *presets.DTYPES),
    )
    height: int | None = VIDEO(None, "Height in pixels (default: the generator's).", low=16)
    width: int | None = VIDEO(None, "Width in pixels (default: the generator's).", low=16)
    num_frames: int | None = VIDEO(
        None, "Number of frames per video (default: the generator's).", low=1
    )
    fps: float | None = VIDEO(
        None, "Frames per second of the video (default: the generator's).", low=1
    )
    denoising_steps: int | None = MODEL(
        None, "Number of denoising steps (default: the generator's).", low=1
    )
    guidance: float | None = MODEL(None, "Guidance scale (default: the generator's).")
    negative_prompt: str = MODEL(
        "", "Negative prompt: what to avoid, where the guidance scale is over 1."
    )
    pipeline_arguments: str = MODEL("{}", "Further arguments of the pipeline's call, as JSON.")
    first_frames: str = MODEL(
        "",
        "First frames: a videos.json whose normal training videos give each generated video its "
        "first frame (default: none). It needs an image-to-video model.",
    )
    first_frames_by: str = MODEL(
        "chance",
        "Choice among --first_frames: by chance, or by CLIP the frame nearest to a description's "
        "location and viewpoint.",
        choices=presets.FRAME_CHOICES,
    )
    first_frames_weights: str = MODEL(
        "",
        "CLIP checkpoint of --first_frames_by=clip: a Hub name or a folder (default: "
        "openai/clip-vit-large-patch14).",
    )
    clips_a_call: int = MODEL(1, "Number of videos per call of the pipeline.", low=1, free=True)
    vae_tiling: bool = MODEL(
        False, "Decode in tiles, which takes less memory and changes pixels slightly."
    )
    vae_slicing: bool = MODEL(False, "Decode video by video, which takes less memory.", free=True)
    offload: str = MODEL(
        "none",
        "Offloading of idle weights to the CPU: whole models, or layer by layer (sequential).",
        choices=presets.OFFLOADS,
        free=True,
    )
    quantize: str = MODEL(
        "none", "Quantisation of the transformer's weights.", choices=presets.QUANTIZATIONS
    )
    device: str = DEVICE

    def __post_init__(self):
        check(self)
        for flag, is_given, expected, is_there in (
            (
                "first_frames_by",
                self.first_frames_by != "chance",
                "--first_frames",
                self.first_frames,
            ),
            (
                "first_frames_weights",
                self.first_frames_weights,
                "--first_frames_by=clip",
                self.first_frames_by == "clip",
            ),
        ):
            if is_given and not is_there:
                raise UserError(
                    f"--{flag}: expected {expected} beside it, found none; give both, or neither"
                )

    def call_arguments(self) -> dict[str, Any]:
        """Parses --pipeline_arguments; raises UserError if it is not a JSON object."""
        try:
            arguments = json.loads(self.pipeline_arguments)
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise UserError(
                "--pipeline_arguments: expected a JSON object, found "
                f"{self.pipeline_arguments!r}; correct it"
            )
        return arguments
