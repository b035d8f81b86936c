"""The parts of the GPU report that run random models of PyTorch: CLIP and CogVideoX."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from tools.bench import encode
from tools.bench.gpu import hardware
from tools.bench.workers import seconds_of

# Keeps figures, those of a part so far.
Keep = Callable[[dict[str, Any]], None]


def clip(device: str, end: float, keep: Keep) -> None:
    """Times a random CLIP vision tower by batch size: crops and frames of ten crops a second."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    name, sizes, dtype = ("tiny", (2,), torch.float32)
    if device == "cuda":
        name, sizes, dtype = ("vit-l14-random", (32, 64, 128, 256, 512), torch.bfloat16)
    shape = encode.MODELS[name]
    config = CLIPVisionConfig(intermediate_size=4 * shape["hidden_size"], image_size=224, **shape)
    model = CLIPVisionModelWithProjection(config).to(device, dtype).eval()
    rates = _peaks(device, "bfloat16", dtype)
    figures: dict[str, Any] = {"model": name, "dtype": str(dtype), "batches": {}}
    figures |= {f"{key}_teraoperations": rate / 1e12 for key, rate in rates.items()}
    for way in ("eager", "compiled") if device == "cuda" else ("eager",):
        forward = torch.compile(model) if way == "compiled" else model
        for batch in sizes if way == "eager" else sizes[-2:-1]:
            if time.monotonic() > end:
                return
            row = _clip_row(forward, batch, device, dtype)
            if seconds := row.get("seconds"):
                reached = encode.flops_a_crop(config) * batch / seconds
                row |= {f"share_of_{key}": reached / rate for key, rate in rates.items()}
                row |= {"crops_a_second": batch / seconds, "frames_a_second": batch / 10 / seconds}
            figures["batches"][f"{way} {batch}"] = row
            keep(figures)


def _clip_row(forward: Any, batch: int, device: str, dtype: Any) -> dict[str, Any]:
    import torch

    pixels = torch.randn(batch, 3, 224, 224, device=device, dtype=dtype)
    try:
        return {"seconds": _forward_seconds(lambda: forward(pixel_values=pixels), device)}
    except torch.OutOfMemoryError:
        return {"skipped": "out of memory"}


def _forward_seconds(forward: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """The median time of forward passes, the first two not counted."""
    import torch

    def once() -> None:
        with torch.inference_mode():
            forward()
        if device == "cuda":
            torch.cuda.synchronize()

    return statistics.median([seconds_of(once) for _ in range(repeats + 2)][2:])


def _peaks(device: str, precision: str, dtype: Any) -> dict[str, float]:
    """Operations a second of the GPU: of a large product, and by its data sheet if known."""
    if device != "cuda":
        return {}
    rates = {"matmul_peak": encode.measured_peak(device, dtype)}
    rated = hardware.rated_operations(precision)
    return rates | ({"rated_peak": rated} if rated else {})


# CogVideoX-2b is what the class of diffusers defaults to: 1.7 billion weights, and 17,776 tokens
# for 49 frames of 480x720.
COGVIDEOX = {
    "tiny": {"num_attention_heads": 2, "num_layers": 2, "text_embed_dim": 32, "sample_width": 8,
             "sample_height": 8, "sample_frames": 5, "time_embed_dim": 16},
    "cogvideox-2b": {},
}  # fmt: skip
COGVIDEOX_BYTES = 12e9


def cogvideox(device: str, keep: Keep) -> None:
    """Times one step of a randomly initialised CogVideoX transformer, tiny and, on a GPU, whole."""
    import torch

    figures: dict[str, Any] = {}
    for name, settings in COGVIDEOX.items():
        free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
        if name != "tiny" and free < COGVIDEOX_BYTES:
            figures[name] = {
                "skipped": f"takes a GPU with {COGVIDEOX_BYTES / 1e9:.0f} GB free, found "
                f"{free / 1e9:.0f}"
            }
        else:
            figures[name] = _cogvideox_step(settings, device)
        keep(figures)


def _cogvideox_step(settings: Mapping[str, int], device: str) -> dict[str, Any]:
    import torch
    from diffusers import CogVideoXTransformer3DModel

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.set_default_dtype(dtype)  # Made in float32 first, it would take twice the memory.
    with torch.device(device):
        model = CogVideoXTransformer3DModel(**settings).eval()
        config = model.config
        frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
        latent = torch.randn(
            1, frames, config.in_channels, config.sample_height, config.sample_width
        )
        text = torch.randn(1, config.max_text_seq_length, config.text_embed_dim)
        time_ = torch.tensor([500])
    torch.set_default_dtype(torch.float32)
    seconds = _forward_seconds(lambda: model(latent, text, time_), device, repeats=3)
    tokens = frames * config.sample_height * config.sample_width // config.patch_size**2
    tokens += config.max_text_seq_length
    width = config.num_attention_heads * config.attention_head_dim
    # Four products of attention, two of the MLP (four times as wide), and its scores and sums.
    counted = 2.0 * config.num_layers * (12 * width**2 * tokens + 2 * tokens**2 * width)
    rates = _peaks(device, "bfloat16", dtype)
    shares = {f"share_of_{key}": counted / seconds / rate for key, rate in rates.items()}
    return {"seconds": seconds, "tokens": tokens, "teraoperations": counted / 1e12, **shares}
