"""What a synthetic store costs before anything is started: hours, gigabytes, tokens, money.

    python -m tools.generation_budget --pairs=300 --generator=cogvideox-2b
    python -m tools.generation_budget --price_input=2.5 --price_output=10 --clips=FOLDER

Computed, not measured: operations are counted from the models' configurations (built without
weights), divided by a share of the GPU's peak that is a flag; a clip's time is its model card's.
Every line says what it comes from. `--clips` takes the bits a pixel of real generated clips instead
of the assumed ones.
"""

import dataclasses
import json
import pathlib
import sys
import tempfile
from typing import Any

from absl import flags

from generation.videos import presets
from gvvad_jax.command import UserError, run_command


@dataclasses.dataclass(frozen=True)
class Generator:
    """A text-to-video model as far as its costs go.

    Attributes:
      heads, layers: of its transformer; heads are 64 wide.
      seconds: a clip takes on `gpu` with the numbers of video_models.PRESETS.
      gpu, source: what the seconds were measured on, and by whom.
    """

    heads: int
    layers: int
    seconds: float
    gpu: str
    source: str


_CARD_5B = "CogVideoX-5b's model card, revision a190ef4"
_CARD_15 = "CogVideoX1.5-5B's model card, revision 350b2b0"
GENERATORS = {
    "cogvideox-2b": Generator(30, 30, 90, "A100", _CARD_5B),
    "cogvideox-5b": Generator(48, 42, 200, "A100", _CARD_5B),
    "cogvideox1.5-5b": Generator(48, 42, 1000, "A100", _CARD_15),
}
# One abnormal and one normal description of about 100 words and two phrases, as JSON, and the
# instruction with the schema; --tokens_input and --tokens_output put what a first run printed.
_TOKENS_A_PAIR = (1100, 500)
# UCF-Crime: 1,900 videos, 128 hours (Sultani et al., CVPR 2018), 30 frames a second.
_UCF_CRIME = (1900, 128.0, 30.0)
# Model widths: ViT-L/14 at 224 pixels; GIT-base's ViT-B/16 at 224 pixels and its text decoder.
_VIT_L14 = {"layers": 24, "width": 1024, "tokens": 257, "ratio": 4}
_VIT_B16 = {"layers": 12, "width": 768, "tokens": 197, "ratio": 4}
_GIT_FRAMES, _GIT_LAYERS, _GIT_WIDTH, _CAPTION_TOKENS = 6, 6, 768, 20


def transformer_flops(layers: int, width: int, tokens: int, ratio: int) -> float:
    """Operations of one forward pass, a multiplication and its addition counted as two.

    Per layer: query, key, value and output projections (4 width^2 a token), the two layers of the
    MLP (2 ratio width^2) and attention's two products (2 tokens width a token).
    """
    a_token = 2 * (4 + 2 * ratio) * width**2 + 4 * tokens * width
    return float(layers * tokens * a_token)


def parameters(generator: Generator) -> dict[str, float]:
    """Parameters of the transformer, the VAE and the T5 text encoder, counted without weights."""
    import torch
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    from transformers import T5Config, T5EncoderModel

    t5_xxl = {"vocab_size": 32128, "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24}
    with torch.device("meta"):
        models = {
            "transformer": CogVideoXTransformer3DModel(
                num_attention_heads=generator.heads, num_layers=generator.layers
            ),
            "vae": AutoencoderKLCogVideoX(),
            "text_encoder": T5EncoderModel(
                T5Config(**t5_xxl, num_heads=64, feed_forward_proj="gated-gelu")
            ),
        }
    return {name: float(sum(p.numel() for p in m.parameters())) for name, m in models.items()}


def bits_a_pixel(clips: str) -> float:
    """Of real generated clips, written as generation.videos writes them. Raises UserError."""
    from generation.media import reading
    from generation.media.writing import write_video

    paths = sorted(p for p in pathlib.Path(clips).glob("*") if p.suffix in (".gif", ".mp4"))
    if not paths:
        raise UserError(f"{clips}: expected a folder of .gif or .mp4 clips, found none in it")
    bits = pixels = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            frames_TxHxWx3 = reading.read(path).frames_TxHxWx3
            height, width = (size // 2 * 2 for size in frames_TxHxWx3.shape[1:3])
            frames_TxHxWx3 = frames_TxHxWx3[:, :height, :width]
            written = pathlib.Path(folder) / "clip.mp4"
            write_video(written, frames_TxHxWx3, fps=8, crf=20)
            bits += 8 * written.stat().st_size
            pixels += frames_TxHxWx3[..., 0].size
    return bits / pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be made; each field is a flag."""

    generator: str
    pairs: int
    gpus: int
    gpu_price: float | None
    price_input: float | None
    price_output: float | None
    tokens_input: int
    tokens_output: int
    crops: int
    snippet_frames: int
    peak_tflops: float
    share_of_peak: float
    bits_a_pixel: float


def budget(plan: Plan) -> dict[str, Any]:
    """The figures, by name; hours are of all GPUs together unless their name says otherwise."""
    generator = GENERATORS[plan.generator]
    videos, hours, fps = _UCF_CRIME
    clips = 2 * plan.pairs
    clip = presets.PRESETS[plan.generator]
    clip_pixels = clip.num_frames * clip.height * clip.width
    snippets = hours * 3600 * fps / plan.snippet_frames
    synthetic_snippets = clips * clip.num_frames / plan.snippet_frames
    speed = plan.peak_tflops * 1e12 * plan.share_of_peak
    clip_hours = {
        name: count * plan.crops * transformer_flops(**_VIT_L14) / speed / 3600
        for name, count in (("real", snippets), ("synthetic", synthetic_snippets))
    }
    video_hours = clips * generator.seconds / 3600
    row_bytes = 2 * (plan.crops + 1) * 768
    caption_hours = snippets * _caption_flops() / speed / 3600
    gpu_hours = video_hours + sum(clip_hours.values()) + caption_hours
    return {
        "clips": clips,
        "tokens": {
            "input": plan.pairs * plan.tokens_input,
            "output": plan.pairs * plan.tokens_output,
        },
        "prompts_dollars": _dollars(plan),
        "weights_gigabytes": {k: 2 * n / 1e9 for k, n in parameters(generator).items()},
        "generation_gpu_hours": video_hours,
        "clips_gigabytes": clips * clip_pixels * plan.bits_a_pixel / 8 / 1e9,
        "snippets": {"real": round(snippets), "synthetic": round(synthetic_snippets)},
        "clip_gpu_hours": clip_hours,
        "caption_gpu_hours": caption_hours,
        "store_gigabytes": {
            "real": snippets * row_bytes / 1e9,
            "synthetic": synthetic_snippets * row_bytes / 1e9,
        },
        "gpu_hours": gpu_hours,
        "days_on_your_gpus": gpu_hours / plan.gpus / 24,
        "gpu_dollars": None if plan.gpu_price is None else gpu_hours * plan.gpu_price,
        "videos_to_decode": {"videos": videos, "hours": hours, "frames": round(hours * 3600 * fps)},
    }


def _caption_flops() -> float:
    """GIT on one snippet: six frames through its ViT, then its decoder over them and the words."""
    tokens = _GIT_FRAMES * _VIT_B16["tokens"] + _CAPTION_TOKENS
    decoder = transformer_flops(_GIT_LAYERS, _GIT_WIDTH, tokens, 4)
    return _GIT_FRAMES * transformer_flops(**_VIT_B16) + decoder


def _dollars(plan: Plan) -> float | None:
    if plan.price_input is None or plan.price_output is None:
        return None
    cost = plan.tokens_input * plan.price_input + plan.tokens_output * plan.price_output
    return plan.pairs * cost / 1e6


def table(plan: Plan, found: dict[str, Any]) -> str:
    """The figures as Markdown, each with where it comes from."""
    generator = GENERATORS[plan.generator]
    speed = f"{plan.share_of_peak:.0%} of {plan.peak_tflops:g} TFLOP/s"
    weights, stores, hours = (
        found[name] for name in ("weights_gigabytes", "store_gigabytes", "clip_gpu_hours")
    )
    rows = [
        ("descriptions", f"{_money(found['prompts_dollars'])}", _tokens(found)),
        (
            "weights of the generator",
            f"{sum(weights.values()):.1f} GB",
            ", ".join(f"{name} {size:.1f}" for name, size in weights.items()) + "; 2 bytes each",
        ),
        (
            f"{found['clips']} clips of {plan.generator}",
            f"{found['generation_gpu_hours']:.1f} GPU hours",
            f"{generator.seconds:g} s each on one {generator.gpu}: {generator.source}",
        ),
        (
            "their .mp4 files",
            f"{found['clips_gigabytes']:.2f} GB",
            f"{plan.bits_a_pixel:.3f} bit/px",
        ),
        (
            f"CLIP-L of UCF-Crime, {plan.crops} crops",
            f"{hours['real']:.1f} GPU hours",
            f"{found['snippets']['real']:,} snippets, "
            f"{transformer_flops(**_VIT_L14) / 1e9:.0f} GFLOP a crop, {speed}",
        ),
        ("its store", f"{stores['real']:.1f} GB", "float16, visual and text rows"),
        (
            "CLIP-L of the clips",
            f"{hours['synthetic']:.2f} GPU hours",
            f"{found['snippets']['synthetic']:,} snippets",
        ),
        (
            "captions by GIT",
            f"{found['caption_gpu_hours']:.1f} GPU hours",
            f"{_caption_flops() / 1e9:.0f} GFLOP a snippet, {speed}",
        ),
        (
            "together",
            f"{found['gpu_hours']:.0f} GPU hours",
            f"{found['days_on_your_gpus']:.1f} days on {plan.gpus} GPU; "
            f"{_money(found['gpu_dollars'])}",
        ),
    ]
    lines = ["| what | how much | from |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _tokens(found: dict[str, Any]) -> str:
    return f"{found['tokens']['input']:,} tokens in, {found['tokens']['output']:,} out"


def _money(dollars: float | None) -> str:
    return "no price given" if dollars is None else f"${dollars:,.2f}"


def main(_) -> None:
    plan = Plan(**{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Plan)})
    if _CLIPS.value:
        plan = dataclasses.replace(plan, bits_a_pixel=bits_a_pixel(_CLIPS.value))
    found = budget(plan)
    print(table(plan, found), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    flags.DEFINE_enum("generator", "cogvideox-2b", list(GENERATORS), "The generator.")
    flags.DEFINE_integer("pairs", 300, "Pairs of descriptions; a pair is two clips.", 1)
    flags.DEFINE_integer("gpus", 1, "GPUs at work.", 1)
    flags.DEFINE_float("gpu_price", None, "Dollars an hour of one GPU.", 0)
    flags.DEFINE_float("price_input", None, "Dollars a million input tokens.", 0)
    flags.DEFINE_float("price_output", None, "Dollars a million output tokens.", 0)
    flags.DEFINE_integer("tokens_input", _TOKENS_A_PAIR[0], "Asked for a pair.", 1)
    flags.DEFINE_integer("tokens_output", _TOKENS_A_PAIR[1], "Answered for a pair.", 1)
    flags.DEFINE_integer("crops", 10, "Of CLIP-L.", 1)
    flags.DEFINE_integer("snippet_frames", 16, "Frames a snippet.", 1)
    flags.DEFINE_float("peak_tflops", 312, "Of the GPU, dense bfloat16; an A100's data sheet.", 1)
    flags.DEFINE_float("share_of_peak", 0.35, "That the encoders reach: an assumption.", 0.001, 1)
    _CLIPS = flags.DEFINE_string("clips", "", "Real generated clips to take the bits a pixel from.")
    # What --clips gives for 16 clips of CogVideoX that were .gif files once: their dither makes it
    # a bound from above.
    flags.DEFINE_float("bits_a_pixel", 1.1, "Of the .mp4 files.", 0)
    run_command(main, usage=__doc__)
