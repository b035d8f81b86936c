"""What a synthetic store costs: GPU hours, gigabytes, tokens and money, computed, not measured.

Operations are counted from the models' configurations (built without weights) and divided by a
share of the GPU's peak; the time of a generated video is its model card's.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from generation.videos import presets
from gvvad_jax.command import UserError, check, option


@dataclasses.dataclass(frozen=True)
class Generator:
    """A text-to-video model, as far as its costs go.

    Attributes:
      heads: attention heads of its transformer, each 64 wide.
      layers: layers of its transformer.
      seconds: time of one video on `gpu`, of the size in videos/presets.py.
      gpu: GPU that the seconds were measured on.
      source: who measured them.
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
# Input: the instruction with the schema. Output: one abnormal and one normal description of about
# 100 words and two phrases, as JSON. Replace them by what a first run prints.
_TOKENS_A_PAIR = (1100, 500)
# UCF-Crime: 1,900 videos, 128 hours (Sultani et al., CVPR 2018), 30 frames a second.
_UCF_CRIME = (1900, 128.0, 30.0)
# Model widths: ViT-L/14 at 224 pixels; GIT-base's ViT-B/16 at 224 pixels and its text decoder.
_VIT_L14 = {"layers": 24, "width": 1024, "tokens": 257, "ratio": 4}
_VIT_B16 = {"layers": 12, "width": 768, "tokens": 197, "ratio": 4}
_GIT_FRAMES, _GIT_LAYERS, _GIT_WIDTH, _CAPTION_TOKENS = 6, 6, 768, 20


def transformer_flops(layers: int, width: int, tokens: int, ratio: int) -> float:
    """Floating-point operations of one forward pass; a multiply-add counts as two.

    Each layer has query, key, value and output projections (4 width^2 a token), the two layers of
    the MLP (2 ratio width^2) and attention's two products (2 tokens width a token).
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


def bits_a_pixel(folder: str) -> float:
    """Bits a pixel of some generated videos, written as generation.videos writes them.

    Raises:
      UserError: no .gif or .mp4 in the folder.
    """
    from generation.media import reading
    from generation.media.writing import write_video

    paths = sorted(p for p in pathlib.Path(folder).glob("*") if p.suffix in (".gif", ".mp4"))
    if not paths:
        raise UserError(
            f"{folder}: expected a folder of .gif or .mp4 videos, found none in it; name another"
        )
    bits = pixels = 0
    with tempfile.TemporaryDirectory() as temporary:
        for path in paths:
            frames_TxHxWx3 = reading.read(path).frames_TxHxWx3
            height, width = (size // 2 * 2 for size in frames_TxHxWx3.shape[1:3])
            frames_TxHxWx3 = frames_TxHxWx3[:, :height, :width]
            written = pathlib.Path(temporary) / "video.mp4"
            write_video(written, frames_TxHxWx3, fps=8, crf=20)
            bits += 8 * written.stat().st_size
            pixels += frames_TxHxWx3[..., 0].size
    return bits / pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be generated and with what; each field is a flag."""

    generator: str = option("cogvideox-2b", "Text-to-video model.", choices=tuple(GENERATORS))
    pairs: int = option(300, "Pairs of descriptions; a pair becomes two generated videos.", low=1)
    gpus: int = option(1, "Number of GPUs.", low=1)
    gpu_price: float | None = option(None, "Price of one GPU in dollars an hour.", low=0)
    price_input: float | None = option(
        None, "Dollars per million input tokens (default: unknown).", low=0
    )
    price_output: float | None = option(
        None, "Dollars per million output tokens (default: unknown).", low=0
    )
    tokens_input: int = option(_TOKENS_A_PAIR[0], "Input tokens a pair of descriptions.", low=1)
    tokens_output: int = option(_TOKENS_A_PAIR[1], "Output tokens a pair of descriptions.", low=1)
    crops: int = option(10, "Crops of a frame that CLIP encodes.", low=1)
    snippet_frames: int = option(16, "Frames of a snippet.", low=1)
    peak_tflops: float = option(
        312.0, "Peak of the GPU in TFLOP/s, dense bfloat16; the default is an A100's.", low=1
    )
    share_of_peak: float = option(
        0.35, "Share of the peak that the encoders reach; an assumption.", low=0.001, high=1
    )
    # What --clips gives for 16 videos of CogVideoX that once were .gif files; their dither makes it
    # an upper bound.
    bits_a_pixel: float = option(1.1, "Bits a pixel of the generated .mp4 files.", low=0)

    def __post_init__(self):
        check(self)


def budget(order: Order) -> dict[str, Any]:
    """Computes the figures by name; hours are GPU hours unless the name says otherwise."""
    generator = GENERATORS[order.generator]
    real_videos, hours, fps = _UCF_CRIME
    videos = 2 * order.pairs
    preset = presets.PRESETS[order.generator]
    video_pixels = preset.num_frames * preset.height * preset.width
    snippets = hours * 3600 * fps / order.snippet_frames
    synthetic_snippets = videos * preset.num_frames / order.snippet_frames
    speed = order.peak_tflops * 1e12 * order.share_of_peak
    clip_hours = {
        name: count * order.crops * transformer_flops(**_VIT_L14) / speed / 3600
        for name, count in (("real", snippets), ("synthetic", synthetic_snippets))
    }
    video_hours = videos * generator.seconds / 3600
    row_bytes = 2 * (order.crops + 1) * 768
    caption_hours = snippets * _caption_flops() / speed / 3600
    gpu_hours = video_hours + sum(clip_hours.values()) + caption_hours
    return {
        "clips": videos,
        "tokens": {
            "input": order.pairs * order.tokens_input,
            "output": order.pairs * order.tokens_output,
        },
        "prompts_dollars": _dollars(order),
        "weights_gigabytes": {k: 2 * n / 1e9 for k, n in parameters(generator).items()},
        "generation_gpu_hours": video_hours,
        "clips_gigabytes": videos * video_pixels * order.bits_a_pixel / 8 / 1e9,
        "snippets": {"real": round(snippets), "synthetic": round(synthetic_snippets)},
        "clip_gpu_hours": clip_hours,
        "caption_gpu_hours": caption_hours,
        "store_gigabytes": {
            "real": snippets * row_bytes / 1e9,
            "synthetic": synthetic_snippets * row_bytes / 1e9,
        },
        "gpu_hours": gpu_hours,
        "days_on_your_gpus": gpu_hours / order.gpus / 24,
        "gpu_dollars": None if order.gpu_price is None else gpu_hours * order.gpu_price,
        "videos_to_decode": {
            "videos": real_videos,
            "hours": hours,
            "frames": round(hours * 3600 * fps),
        },
    }


def _caption_flops() -> float:
    """Operations of GIT on one snippet: six frames through its ViT, then its text decoder."""
    tokens = _GIT_FRAMES * _VIT_B16["tokens"] + _CAPTION_TOKENS
    decoder = transformer_flops(_GIT_LAYERS, _GIT_WIDTH, tokens, 4)
    return _GIT_FRAMES * transformer_flops(**_VIT_B16) + decoder


def _dollars(order: Order) -> float | None:
    if order.price_input is None or order.price_output is None:
        return None
    cost = order.tokens_input * order.price_input + order.tokens_output * order.price_output
    return order.pairs * cost / 1e6


def table(order: Order, figures: Mapping[str, Any]) -> str:
    """The figures as a Markdown table, each with its source."""
    generator = GENERATORS[order.generator]
    speed = f"{order.share_of_peak:.0%} of {order.peak_tflops:g} TFLOP/s"
    weights, stores, hours = (
        figures[name] for name in ("weights_gigabytes", "store_gigabytes", "clip_gpu_hours")
    )
    rows = [
        ("descriptions", f"{_money(figures['prompts_dollars'])}", _tokens(figures)),
        (
            "weights of the generator",
            f"{sum(weights.values()):.1f} GB",
            ", ".join(f"{name} {size:.1f}" for name, size in weights.items()) + "; 2 bytes each",
        ),
        (
            f"{figures['clips']} videos of {order.generator}",
            f"{figures['generation_gpu_hours']:.1f} GPU hours",
            f"{generator.seconds:g} s each on one {generator.gpu}: {generator.source}",
        ),
        (
            "their .mp4 files",
            f"{figures['clips_gigabytes']:.2f} GB",
            f"{order.bits_a_pixel:.3f} bit/px",
        ),
        (
            f"CLIP-L of UCF-Crime, {order.crops} crops",
            f"{hours['real']:.1f} GPU hours",
            f"{figures['snippets']['real']:,} snippets, "
            f"{transformer_flops(**_VIT_L14) / 1e9:.0f} GFLOP a crop, {speed}",
        ),
        ("its store", f"{stores['real']:.1f} GB", "float16, visual and text rows"),
        (
            "CLIP-L of the generated videos",
            f"{hours['synthetic']:.2f} GPU hours",
            f"{figures['snippets']['synthetic']:,} snippets",
        ),
        (
            "captions by GIT",
            f"{figures['caption_gpu_hours']:.1f} GPU hours",
            f"{_caption_flops() / 1e9:.0f} GFLOP a snippet, {speed}",
        ),
        (
            "together",
            f"{figures['gpu_hours']:.0f} GPU hours",
            f"{figures['days_on_your_gpus']:.1f} days on {order.gpus} GPU; "
            f"{_money(figures['gpu_dollars'])}",
        ),
    ]
    lines = ["| what | how much | from |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _tokens(figures: Mapping[str, Any]) -> str:
    return f"{figures['tokens']['input']:,} tokens in, {figures['tokens']['output']:,} out"


def _money(dollars: float | None) -> str:
    return "no price given" if dollars is None else f"${dollars:,.2f}"
