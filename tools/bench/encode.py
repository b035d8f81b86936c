"""How fast videos become CLIP features, compared with a plain loop that gives the same features.

The plain loop is what one writes first: decode every frame to RGB, take a snippet's frame, resize
it with PIL, and run the checkpoint's PIL processor and the model on each crop. generation.encode
(here without the filter's measures) decodes in a thread, converts and resizes only the frames that
are used, and cuts and normalises crops in batches.
"""

import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from generation.encoders.images import ImageEncoder

SNIPPET = 16
# Largest relative distance allowed between the features. Resizing differs by at most two grey
# levels, and float16 rounds to three digits.
TOLERANCE = {"float32": 0.005, "float16": 0.01, "bfloat16": 0.03}
MODELS = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 32},
    "vit-b32-random": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32,
    },
    "vit-l14-random": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14,
        "projection_dim": 768,
    },
}  # fmt: skip


def write_videos(
    folder: pathlib.Path, count: int, seconds: float, size: tuple[int, int], fps: float
) -> annotations.Annotations:
    """Writes H.264 videos of a textured place with things moving through and camera noise.

    Args:
      folder: folder to write them into.
      count: number of videos.
      seconds: duration of each.
      size: (height, width), both even.
      fps: frames per second.

    Returns:
      The content of their videos.json.
    """
    from generation.media.writing import write_video

    videos = {}
    for number in range(count):
        frames = _frames(number, round(seconds * fps), *size)
        write_video(folder / f"{number}.mp4", frames, fps=fps)
        videos[str(number)] = {"file": f"{number}.mp4", "label": 0, "split": "train"}
    return annotations.from_json({"videos": videos}, str(folder / "videos.json"))


def _frames(seed: int, count: int, height: int, width: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 190, (height // 8 + 1, width // 8 + 1, 3))
    place = np.kron(coarse, np.ones((8, 8, 1))).astype(np.int16)[:height, :width]
    noise = rng.normal(0, 2, (8, height, width, 1)).astype(np.int16)
    box, pace = height // 4, rng.integers(1, 5, 3)
    for t in range(count):
        frame = place + noise[t % 8]
        for row, step in enumerate(pace):
            left = int(t * step) % (width - box)
            frame[row * box : row * box + box, left : left + box] = 40 * row + 30
        yield np.clip(frame, 0, 255).astype(np.uint8)


def save_model(folder: pathlib.Path, name: str) -> str:
    """Saves a random CLIP vision tower, by its name in MODELS; returns the folder."""
    import torch
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    shape = MODELS[name]
    config = CLIPVisionConfig(intermediate_size=4 * shape["hidden_size"], image_size=224, **shape)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return str(folder)


def encode_plainly(
    paths: Sequence[pathlib.Path],
    weights: str,
    crops: str,
    model: "CLIPVisionModelWithProjection",
) -> list[np.ndarray]:
    """The plain loop: float32 [T, crops, dim] of each video's middle frames."""
    from PIL import Image, ImageOps
    from transformers import CLIPImageProcessorPil

    from generation.encoders.preprocessing import resized_size
    from generation.media import reading

    processor = CLIPImageProcessorPil.from_pretrained(weights)
    features = []
    for path in paths:
        frames = reading.read(path).frames_TxHxWx3
        rows = []
        for start, end in alignment.snippet_spans(len(frames), SNIPPET, SNIPPET):
            image = Image.fromarray(frames[(start + end - 1) // 2])
            if crops == "centre":
                views, settings = [image], {}
            else:
                height, width = resized_size(image.height, image.width, 256)
                image = image.resize((width, height), Image.Resampling.BICUBIC)
                views = _pil_crops(image) + _pil_crops(ImageOps.mirror(image))
                settings = {"do_resize": False, "do_center_crop": False}
            rows.append([_embed_one(view, processor, settings, model) for view in views])
        features.append(np.array(rows, np.float32))
    return features


def _pil_crops(image: "PIL.Image.Image") -> "list[PIL.Image.Image]":
    right, bottom = image.width - 224, image.height - 224
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    corners.append((round(right / 2), round(bottom / 2)))
    return [image.crop((left, top, left + 224, top + 224)) for left, top in corners]


def _embed_one(
    view: "PIL.Image.Image",
    processor: "CLIPImageProcessorPil",
    settings: Mapping[str, bool],
    model: "CLIPVisionModelWithProjection",
) -> np.ndarray:
    import torch

    pixels = processor(images=view, return_tensors="pt", **settings)["pixel_values"]
    with torch.inference_mode():
        embedded = model(pixel_values=pixels.to(model.device, model.dtype)).image_embeds
    return embedded[0].float().cpu().numpy()


def encode_ahead(videos: annotations.Annotations, encoder: "ImageEncoder") -> list[np.ndarray]:
    """The same features as generation.encode computes them."""
    from generation.encode import decode_ahead
    from generation.encode.recipe import Recipe

    settings = Recipe(encoder=encoder, snippet_frames=SNIPPET, snippet_stride=SNIPPET)
    messages = decode_ahead.Source(videos, settings, measure=False).messages(videos.videos.values())
    features, rows = [], []
    for message in decode_ahead.ahead(messages, decode_ahead.CHUNKS_ALIVE):
        if isinstance(message, decode_ahead.Chunk):
            rows += message.plan.features.take(message.features)
        else:
            features.append(np.stack(rows))
            rows = []
    return features


def measure(
    videos: annotations.Annotations,
    weights: str,
    crops: str,
    encoder: "ImageEncoder",
    repeats: int,
) -> dict[str, Any]:
    """Times the plain loop and generation.encode in turn.

    Args:
      videos: the videos.
      weights: folder of the checkpoint.
      crops: "ten" or "centre".
      encoder: encoder of the checkpoint with these crops.
      repeats: number of pairs of timings, after one that doesn't count.

    Returns:
      {"relative_error", "crops", "seconds", "ratio", "ratios"}; seconds and ratio are medians.

    Raises:
      UserError: the features differ by more than the tolerance.
    """
    paths = [videos.resolve(video) for video in videos.videos.values()]
    sides = {
        "plain": lambda: encode_plainly(paths, weights, crops, encoder.model),
        "ours": lambda: encode_ahead(videos, encoder),
    }
    features, seconds = {}, {"plain": [], "ours": []}
    for number in range(repeats + 1):
        for side in sorted(sides, reverse=bool(number % 2)):
            start = time.perf_counter()
            features[side] = sides[side]()
            if number:
                seconds[side].append(time.perf_counter() - start)
    expected, computed = (np.concatenate(features[side]) for side in ("plain", "ours"))
    error = float(np.linalg.norm(computed - expected) / np.linalg.norm(expected))
    if not error <= TOLERANCE[encoder.dtype]:
        raise UserError(
            f"features: expected those of the plain loop within {TOLERANCE[encoder.dtype]}, found "
            f"a relative distance of {error:.4f}; one of the two is wrong"
        )
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True)]
    return {
        "relative_error": error,
        "crops": int(np.prod(expected.shape[:2])),
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def flops_a_crop(config: "CLIPVisionConfig") -> float:
    """Floating-point operations of the vision tower on one crop; a multiply-add counts as two."""
    width, patch = config.hidden_size, config.patch_size
    patches = (config.image_size // patch) ** 2
    tokens = patches + 1
    layer = 4 * width**2 + 2 * width * config.intermediate_size + 2 * tokens * width
    multiplications = patches * 3 * patch**2 * width + config.num_hidden_layers * tokens * layer
    return 2.0 * (multiplications + width * config.projection_dim)


def measured_peak(device: str, dtype: "torch.dtype") -> float:
    """Operations a second of large matrix products on a device."""
    import torch

    on_gpu = device.startswith("cuda")
    size, repeats = (8192, 10) if on_gpu else (1024, 1)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    times = []
    for _ in range(10):
        wait()
        start = time.perf_counter()
        for _ in range(repeats):
            left @ right
        wait()
        times.append((time.perf_counter() - start) / repeats)
    return 2.0 * size**3 / min(times)


def report(figures: Mapping[str, Any]) -> str:
    """The figures of the command as text."""
    lines = [
        f"{figures['video']}; {figures['model']}",
        "",
        "| way | frames/s | crops/s |",
        "|---|---|---|",
    ]
    for side in ("plain", "ours"):
        rates = (figures[key][side] for key in ("frames_a_second", "crops_a_second"))
        lines.append(f"| {side} | {' | '.join(f'{rate:.1f}' for rate in rates)} |")
    ratios = figures["ratios"]
    lines += [
        "",
        f"ratio {figures['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} "
        f"pairs); features differ by {figures['relative_error']:.5f} of their length",
    ]
    if "share_of_peak" in figures:
        lines.append(f"{figures['share_of_peak']:.1%} of {figures['peak_tflops']:.3g} TFLOP/s")
    return "\n".join(lines)
