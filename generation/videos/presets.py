"""Published text-to-video models, with the numbers that their authors publish."""

import dataclasses

from gvvad_jax.command import UserError

OFFLOADS = ("none", "model", "sequential")
QUANTIZATIONS = ("none", "int8")
DTYPES = ("float16", "bfloat16", "float32")
FRAME_ARGUMENTS = ("num_frames", "video_length")  # The second is Latte's name for it.
# Image-to-video pipelines on the weights of a text-to-video one.
SAME_WEIGHTS = {"LTXPipeline": "LTXImageToVideoPipeline"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """The numbers of a published model.

    Attributes:
      model: Hub id.
      dtype: precision of the weights.
      vae_dtype: precision of the VAE's weights; None for `dtype`.
      height, width: pixels.
      num_frames, fps: frames per video, and per second.
      steps, guidance: denoising steps and guidance scale.
    """

    model: str
    dtype: str
    vae_dtype: str | None = None
    height: int
    width: int
    num_frames: int
    fps: float
    steps: int
    guidance: float


# Sizes, frames, fps, precision, steps and guidance: from the table and the example in the model
# card of zai-org/CogVideoX1.5-5B, which covers all CogVideoX, and from the examples in the
# docstrings of diffusers 0.42 (CogVideoXPipeline, WanPipeline, LTXPipeline). They have not been
# verified by running the published weights.
_COGVIDEOX = {"height": 480, "width": 720, "num_frames": 49, "fps": 8, "steps": 50, "guidance": 6.0}
_COGVIDEOX15 = _COGVIDEOX | {"height": 768, "width": 1360, "num_frames": 81, "fps": 16}
PRESETS = {
    # The only one that is recommended in float16; the others may give NaN.
    "cogvideox-2b": Preset(model="THUDM/CogVideoX-2b", dtype="float16", **_COGVIDEOX),
    "cogvideox-5b": Preset(model="THUDM/CogVideoX-5b", dtype="bfloat16", **_COGVIDEOX),
    "cogvideox-5b-i2v": Preset(model="THUDM/CogVideoX-5b-I2V", dtype="bfloat16", **_COGVIDEOX),
    "cogvideox1.5-5b": Preset(model="THUDM/CogVideoX1.5-5B", dtype="bfloat16", **_COGVIDEOX15),
    # Other sizes work too: the shorter side is 768, the longer one up to 1360 in steps of 16.
    "cogvideox1.5-5b-i2v": Preset(
        model="THUDM/CogVideoX1.5-5B-I2V", dtype="bfloat16", **_COGVIDEOX15
    ),
    # The VAE is in float32 by diffusers' page on Wan. Uncertain: that page recommends a flow shift
    # of 3 at this size; the scheduler saved with the weights is assumed to have it.
    "wan2.1-1.3b": Preset(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        dtype="bfloat16",
        vae_dtype="float32",
        **{"height": 480, "width": 832, "num_frames": 81, "fps": 16, "steps": 50, "guidance": 5.0},
    ),
    # Uncertain: guidance 3 is the pipeline's default; diffusers' page on LTX suggests about 5.
    # From 0.9.1 on, the model also needs decode_timestep 0.05 (--pipeline_arguments).
    "ltx-video": Preset(
        model="Lightricks/LTX-Video",
        dtype="bfloat16",
        **{"height": 480, "width": 704, "num_frames": 161, "fps": 24, "steps": 50, "guidance": 3.0},
    ),
}


def find_preset(name: str, model: str) -> Preset | None:
    """Returns the preset of a name, else of a model, else (both empty) CogVideoX-2b's.

    Raises:
      UserError: there is no preset of that name.
    """
    if not name and not model:
        return PRESETS["cogvideox-2b"]
    if not name:
        return next((preset for preset in PRESETS.values() if preset.model == model), None)
    if name not in PRESETS:
        raise UserError(f"--generator: expected one of {', '.join(PRESETS)}, found {name!r}")
    return PRESETS[name]
