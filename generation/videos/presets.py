"""Published text-to-video models, and the numbers that each was published with."""

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
    """What a published model was trained for, by its authors.

    Attributes:
      model: Hub id.
      dtype, vae_dtype: of the weights; the VAE's is the same where it isn't named.
      height, width: pixels.
      num_frames, fps: of a clip.
      steps, guidance: of the denoising.
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
# docstrings of diffusers 0.42 (CogVideoXPipeline, WanPipeline, LTXPipeline). No weights could be
# run here, so none of it is more than what these say.
_COGVIDEOX = {"height": 480, "width": 720, "num_frames": 49, "fps": 8, "steps": 50, "guidance": 6.0}
_COGVIDEOX15 = _COGVIDEOX | {"height": 768, "width": 1360, "num_frames": 81, "fps": 16}
PRESETS = {
    # The one of them that is recommended in float16; the others may give NaN there.
    "cogvideox-2b": Preset(model="THUDM/CogVideoX-2b", dtype="float16", **_COGVIDEOX),
    "cogvideox-5b": Preset(model="THUDM/CogVideoX-5b", dtype="bfloat16", **_COGVIDEOX),
    "cogvideox-5b-i2v": Preset(model="THUDM/CogVideoX-5b-I2V", dtype="bfloat16", **_COGVIDEOX),
    "cogvideox1.5-5b": Preset(model="THUDM/CogVideoX1.5-5B", dtype="bfloat16", **_COGVIDEOX15),
    # Other sizes too: the shorter side 768, the longer one up to 1360 in steps of 16.
    "cogvideox1.5-5b-i2v": Preset(
        model="THUDM/CogVideoX1.5-5B-I2V", dtype="bfloat16", **_COGVIDEOX15
    ),
    # The VAE in float32: diffusers' page on Wan. Uncertain: that page wants a flow shift of 3 at
    # this size, which is taken to be what the scheduler saved with the weights has.
    "wan2.1-1.3b": Preset(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        dtype="bfloat16",
        vae_dtype="float32",
        **{"height": 480, "width": 832, "num_frames": 81, "fps": 16, "steps": 50, "guidance": 5.0},
    ),
    # Uncertain: guidance 3 is the pipeline's default, diffusers' page on LTX speaks of "like 5.0".
    # From 0.9.1 on the model wants decode_timestep 0.05 besides (--pipeline_arguments).
    "ltx-video": Preset(
        model="Lightricks/LTX-Video",
        dtype="bfloat16",
        **{"height": 480, "width": 704, "num_frames": 161, "fps": 24, "steps": 50, "guidance": 3.0},
    ),
}


def find_preset(name: str | None, model: str | None) -> Preset | None:
    """The named preset, else the one of this model; CogVideoX-2b's where neither is given.

    Raises:
      UserError: no preset of that name.
    """
    if name is None and model is None:
        return PRESETS["cogvideox-2b"]
    if name is None:
        return next((preset for preset in PRESETS.values() if preset.model == model), None)
    if name not in PRESETS:
        raise UserError(f"--generator: expected one of {', '.join(PRESETS)}, found {name!r}")
    return PRESETS[name]
