"""Published text-to-video models, with the numbers that their authors publish."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from gvvad_jax.command import UserError

OFFLOADS = ("none", "model", "sequential")
QUANTIZATIONS = ("none", "int8")
FRAME_CHOICES = ("chance", "clip")
DTYPES = ("float16", "bfloat16", "float32")
# The second is Latte's name for it, the third SANA-Video's.
FRAME_ARGUMENTS = ("num_frames", "video_length", "frames")
# Image-to-video pipelines on the weights of a text-to-video one.
SAME_WEIGHTS = {
    "LTXPipeline": "LTXImageToVideoPipeline",
    "LTX2Pipeline": "LTX2ImageToVideoPipeline",
}
# Owners on the Hub that were renamed; their old names still lead to the models.
_RENAMED_OWNERS = {"thudm": "zai-org"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """The numbers of a published model.

    Attributes:
      model: Hub id.
      revision: branch of the Hub, where the weights aren't on its main one; "" for main.
      dtype: precision of the weights.
      vae_dtype: precision of the VAE's weights; None for `dtype`.
      height, width: pixels.
      num_frames, fps: frames per video, and per second.
      frame_step: K of the K*N+1 frames that the model can generate; see `limits.frame_step`.
      any_rate: whether the frame rate is an input of the model, so that motion keeps its pace.
      steps, guidance: denoising steps and guidance scale; None for a guidance that the weights
        carry.
      arguments: further arguments of the pipeline's call.
    """

    model: str
    revision: str = ""
    dtype: str
    vae_dtype: str | None = None
    height: int
    width: int
    num_frames: int
    fps: float
    frame_step: int
    any_rate: bool = False
    steps: int
    guidance: float | None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Sizes, frames, fps, precision, steps and guidance: from the table and the example in the model
# card of zai-org/CogVideoX1.5-5B, which covers all CogVideoX, and from the examples in the
# docstrings of diffusers 0.42 (CogVideoXPipeline, WanPipeline, LTXPipeline and those of the other
# models; docs/generation.md has the sources). They have not been
# verified by running the published weights.
_COGVIDEOX = {
    **{"height": 480, "width": 720, "num_frames": 49, "fps": 8, "frame_step": 8},
    **{"steps": 50, "guidance": 6.0},
}
_COGVIDEOX15 = _COGVIDEOX | {
    **{"height": 768, "width": 1360, "num_frames": 81, "fps": 16, "frame_step": 16}
}
PRESETS = {
    # The only one that is recommended in float16; the others may give NaN.
    "cogvideox-2b": Preset(model="zai-org/CogVideoX-2b", dtype="float16", **_COGVIDEOX),
    "cogvideox-5b": Preset(model="zai-org/CogVideoX-5b", dtype="bfloat16", **_COGVIDEOX),
    "cogvideox-5b-i2v": Preset(model="zai-org/CogVideoX-5b-I2V", dtype="bfloat16", **_COGVIDEOX),
    "cogvideox1.5-5b": Preset(model="zai-org/CogVideoX1.5-5B", dtype="bfloat16", **_COGVIDEOX15),
    # Other sizes work too: the shorter side is 768, the longer one up to 1360 in steps of 16.
    "cogvideox1.5-5b-i2v": Preset(
        model="zai-org/CogVideoX1.5-5B-I2V", dtype="bfloat16", **_COGVIDEOX15
    ),
    # The VAE is in float32 by diffusers' page on Wan. Uncertain: that page recommends a flow shift
    # of 3 at this size; the scheduler saved with the weights is assumed to have it.
    "wan2.1-1.3b": Preset(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        dtype="bfloat16",
        vae_dtype="float32",
        **{"height": 480, "width": 832, "num_frames": 81, "fps": 16, "frame_step": 4},
        **{"steps": 50, "guidance": 5.0},
    ),
    # Uncertain: guidance 3 is the pipeline's default; diffusers' page on LTX suggests about 5.
    # From 0.9.1 on, the model also needs decode_timestep 0.05 (--pipeline_arguments).
    "ltx-video": Preset(
        model="Lightricks/LTX-Video",
        dtype="bfloat16",
        **{"height": 480, "width": 704, "num_frames": 161, "fps": 24, "frame_step": 8},
        **{"any_rate": True, "steps": 50, "guidance": 3.0},
    ),
    # Two transformers take turns, each with its own guidance scale (Wan-AI's example of diffusers).
    "wan2.2-a14b": Preset(
        model="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        dtype="bfloat16",
        vae_dtype="float32",
        **{"height": 720, "width": 1280, "num_frames": 81, "fps": 16, "frame_step": 4},
        **{"steps": 40, "guidance": 4.0, "arguments": {"guidance_scale_2": 3.0}},
    ),
    "wan2.2-5b": Preset(
        model="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        dtype="bfloat16",
        vae_dtype="float32",
        **{"height": 704, "width": 1280, "num_frames": 121, "fps": 24, "frame_step": 4},
        **{"steps": 50, "guidance": 5.0},
    ),
    # It makes sound too, which is left out.
    "ltx-2": Preset(
        model="Lightricks/LTX-2",
        dtype="bfloat16",
        **{"height": 512, "width": 768, "num_frames": 121, "fps": 24, "frame_step": 8},
        **{"any_rate": True, "steps": 30, "guidance": 3.0},
    ),
    # Its guidance scale is saved with the weights, as a component of the pipeline.
    "hunyuanvideo1.5-480p": Preset(
        model="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
        dtype="bfloat16",
        **{"height": 480, "width": 848, "num_frames": 121, "fps": 24, "frame_step": 4},
        **{"steps": 50, "guidance": None},
    ),
    "kandinsky5-lite": Preset(
        model="kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers",
        dtype="bfloat16",
        **{"height": 512, "width": 768, "num_frames": 121, "fps": 24, "frame_step": 4},
        **{"steps": 50, "guidance": 5.0},
    ),
    "sana-video-480p": Preset(
        model="Efficient-Large-Model/SANA-Video_2B_480p_diffusers",
        dtype="bfloat16",
        vae_dtype="float32",
        **{"height": 480, "width": 832, "num_frames": 81, "fps": 16, "frame_step": 4},
        **{"steps": 50, "guidance": 6.0},
    ),
    # It takes first frames too. Its safety checker needs NVIDIA's package cosmos_guardrail.
    "cosmos-predict2.5-2b": Preset(
        model="nvidia/Cosmos-Predict2.5-2B",
        revision="diffusers/base/post-trained",
        dtype="bfloat16",
        **{"height": 704, "width": 1280, "num_frames": 93, "fps": 16, "frame_step": 4},
        **{"steps": 36, "guidance": 7.0},
    ),
}


def hub_id(model: str) -> str:
    """Returns what a model is called on the Hub, in lower case.

    Args:
      model: a Hub id, e.g. "THUDM/CogVideoX-2b", or a folder.

    Returns:
      "owner/name" with the owner's name of today; "/name" for a folder that doesn't say its owner.
    """
    if not os.path.isdir(model):
        owner, _, name = model.lower().rpartition("/")
        return f"{_RENAMED_OWNERS.get(owner, owner)}/{name}"
    parts = pathlib.Path(os.path.abspath(model)).parts
    cached = [part for part in parts if part.startswith("models--")]
    if cached and "snapshots" in parts:
        return hub_id(cached[-1].removeprefix("models--").replace("--", "/", 1))
    return f"/{parts[-1].lower()}"


def find_preset(name: str, model: str) -> Preset | None:
    """Returns the preset of a name, else of a model, else (both empty) CogVideoX-2b's.

    A model is a Hub id, in any case and under an old owner's name too, or a folder that is called
    like a published model: its last part, or that of a snapshot in the Hub's cache.

    Raises:
      UserError: there is no preset of that name.
    """
    if not name and not model:
        return PRESETS["cogvideox-2b"]
    if not name:
        model_id = hub_id(model)
        return next((p for p in PRESETS.values() if hub_id(p.model).endswith(model_id)), None)
    if name not in PRESETS:
        raise UserError(f"--generator: expected one of {', '.join(PRESETS)}, found {name!r}")
    return PRESETS[name]


def revision(preset: Preset | None, model: str, given: str) -> str | None:
    """Returns the Hub's revision to load: the given one, else that of the preset's own weights.

    Args:
      preset: the preset, if there is one.
      model: --model, "" for the preset's.
      given: --revision, "" for none.
    """
    if given or preset is None or (model and hub_id(model) != hub_id(preset.model)):
        return given or None
    return preset.revision or None
