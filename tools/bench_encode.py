"""How fast videos become CLIP features, against the plain loop; same features, checked.

    python -m tools.bench_encode [--json=FILE]
    python -m tools.bench_encode --device=cuda --weights=vit-l14-random

The plain loop is what one writes first: decode every frame to RGB, take a snippet's frame, resize
it with PIL, and for each crop run the checkpoint's PIL processor and the model. Ours is what
generation.encode does, without its measures for the filter: decoding in a thread, RGB and resizing
for the frames that are used, crops cut and normalised in batches. Both are timed in turn, clip
files to features, with the model loaded; the table has medians over the pairs.

The clips are H.264 of a textured place with things moving through and camera noise.
`--weights=tiny` is a random CLIP of 2 layers and width 64, so that decoding and preprocessing
count; `vit-l14-random` is ViT-L/14 with random weights, for GPUs: there the share of the peak is
told, counting the FLOPs of the model alone.
"""

import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.files import write_atomically

SNIPPET = 16
# Relative distance of the features of both ways. Resizing differs by two grey levels at most, and
# float16 rounds to three digits.
TOLERANCE = {"float32": 0.005, "float16": 0.01, "bfloat16": 0.03}
MODELS = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 32},
    "vit-l14-random": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14,
        "projection_dim": 768,
    },
}  # fmt: skip


def write_clips(
    folder: pathlib.Path, count: int, seconds: float, size: tuple[int, int], fps: float
) -> annotations.Annotations:
    """Clips of a fixed camera, and their videos.json's content.

    Args:
      folder: to write them into.
      count: of clips.
      seconds: of each.
      size: (height, width), even.
      fps: frames per second.
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
    """A random CLIP vision tower of MODELS as a checkpoint; gives its folder."""
    import torch
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    shape = MODELS[name]
    config = CLIPVisionConfig(intermediate_size=4 * shape["hidden_size"], image_size=224, **shape)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return str(folder)


def plain(paths: Sequence[pathlib.Path], weights: str, crops: str, model: Any) -> list[np.ndarray]:
    """The plain loop: float32 [T, crops, dim] of each video's middle frames."""
    from PIL import Image, ImageOps
    from transformers import CLIPImageProcessorPil

    from generation.encoders.clip import resized_size
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


def _pil_crops(image: Any) -> list[Any]:
    right, bottom = image.width - 224, image.height - 224
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    corners.append((round(right / 2), round(bottom / 2)))
    return [image.crop((left, top, left + 224, top + 224)) for left, top in corners]


def _embed_one(view: Any, processor: Any, settings: dict[str, bool], model: Any) -> np.ndarray:
    import torch

    pixels = processor(images=view, return_tensors="pt", **settings)["pixel_values"]
    with torch.inference_mode():
        embedded = model(pixel_values=pixels.to(model.device, model.dtype)).image_embeds
    return embedded[0].float().cpu().numpy()


def ours(videos: annotations.Annotations, encoder: Any) -> list[np.ndarray]:
    """The same features the way generation.encode makes them."""
    from generation.encode import decode_ahead
    from generation.encode.recipe import Recipe

    made = Recipe(encoder=encoder, snippet_frames=SNIPPET, snippet_stride=SNIPPET)
    messages = decode_ahead.Source(videos, made, measure=False).messages(videos.videos.values())
    features, rows = [], []
    for message in decode_ahead.ahead(messages, decode_ahead.CHUNKS_ALIVE):
        if isinstance(message, decode_ahead.Chunk):
            rows.append(encoder.encode_snippets(message.prepared))
        else:
            features.append(np.concatenate(rows))
            rows = []
    return features


def measure(
    videos: annotations.Annotations, weights: str, crops: str, encoder: Any, repeats: int
) -> dict[str, Any]:
    """Times both ways in turn, `repeats` times after one that doesn't count.

    Raises:
      UserError: their features differ by more than the tolerance.
    """
    paths = [videos.resolve(video) for video in videos.videos.values()]
    ways = {
        "plain": lambda: plain(paths, weights, crops, encoder.model),
        "ours": lambda: ours(videos, encoder),
    }
    features, seconds = {}, {"plain": [], "ours": []}
    for number in range(repeats + 1):
        for way in sorted(ways, reverse=bool(number % 2)):
            start = time.perf_counter()
            features[way] = ways[way]()
            if number:
                seconds[way].append(time.perf_counter() - start)
    expected, found = (np.concatenate(features[way]) for way in ("plain", "ours"))
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not error <= TOLERANCE[encoder.dtype]:
        raise UserError(
            f"features: expected those of the plain loop within {TOLERANCE[encoder.dtype]}, found "
            f"a relative distance of {error:.4f}; one of the two is wrong"
        )
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True)]
    return {
        "relative_error": error,
        "crops": int(np.prod(expected.shape[:2])),
        "seconds": {way: statistics.median(values) for way, values in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def flops_a_crop(config: Any) -> float:
    """Floating-point operations of the vision tower on one crop, two a multiply and add."""
    width, patch = config.hidden_size, config.patch_size
    patches = (config.image_size // patch) ** 2
    tokens = patches + 1
    layer = 4 * width**2 + 2 * width * config.intermediate_size + 2 * tokens * width
    multiplications = patches * 3 * patch**2 * width + config.num_hidden_layers * tokens * layer
    return 2.0 * (multiplications + width * config.projection_dim)


def measured_peak(device: str, dtype: Any, size: int = 8192) -> float:
    """Operations a second that large matrix products reach on a GPU."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            left @ right
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 10)
    return 2.0 * size**3 / min(times)


def main(_) -> None:
    # As generation.encode does; the plain loop gains by it too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from generation.encoders.clip import ClipEncoder

    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        size = _HEIGHT.value, _WIDTH.value
        if _JSON.value:
            pathlib.Path(_JSON.value).resolve().parent.mkdir(parents=True, exist_ok=True)
        videos = write_clips(root, _CLIPS.value, _SECONDS.value, size, _FPS.value)
        weights = _WEIGHTS.value
        if weights in MODELS:
            weights = save_model(root / "model", weights)
        encoder = ClipEncoder(
            weights, crops=_CROPS.value, dtype=_COMPUTE_DTYPE.value or None,
            device=_DEVICE.value or None, batch_size=_CROPS_AT_ONCE.value,
        )  # fmt: skip
        found = measure(videos, weights, _CROPS.value, encoder, _REPEATS.value)
    frames = _CLIPS.value * round(_SECONDS.value * _FPS.value)
    found |= {
        "video": f"{_CLIPS.value} x {_SECONDS.value:g} s, {size[1]}x{size[0]}, {_FPS.value:g} fps",
        "model": f"{_WEIGHTS.value}, {encoder.dtype}, {_CROPS.value} crops, middle frame",
        "frames_a_second": {way: frames / taken for way, taken in found["seconds"].items()},
        "crops_a_second": {way: found["crops"] / s for way, s in found["seconds"].items()},
    }
    if encoder.device.startswith("cuda"):
        peak = _PEAK_TFLOPS.value * 1e12 or measured_peak(encoder.device, encoder.model.dtype)
        reached = flops_a_crop(encoder.model.config) * found["crops_a_second"]["ours"]
        found |= {"peak_tflops": peak / 1e12, "share_of_peak": reached / peak}
    _tell(found)
    if _JSON.value:
        write_atomically(_JSON.value, (json.dumps(found, indent=1) + "\n").encode())


def _tell(found: dict[str, Any]) -> None:
    print(f"{found['video']}; {found['model']}\n\n| way | frames/s | crops/s |\n|---|---|---|")
    for way in ("plain", "ours"):
        rates = (found[key][way] for key in ("frames_a_second", "crops_a_second"))
        print(f"| {way} | {' | '.join(f'{rate:.1f}' for rate in rates)} |")
    spread = f"{min(found['ratios']):.2f} to {max(found['ratios']):.2f}"
    print(f"\nratio {found['ratio']:.2f} ({spread} in {len(found['ratios'])} pairs); ", end="")
    print(f"features differ by {found['relative_error']:.5f} of their length")
    if "share_of_peak" in found:
        print(f"{found['share_of_peak']:.1%} of {found['peak_tflops']:.0f} TFLOP/s")


if __name__ == "__main__":
    _WEIGHTS = flags.DEFINE_string("weights", "tiny", f"{', '.join(MODELS)}, or a folder.")
    _CROPS = flags.DEFINE_enum("crops", "ten", ["ten", "centre"], "Views of a frame.")
    _CLIPS = flags.DEFINE_integer("clips", 3, "Videos.", 1)
    _SECONDS = flags.DEFINE_float("seconds", 8.0, "Of each.", 0.1)
    _WIDTH = flags.DEFINE_integer("width", 320, "Pixels, even.", 16)
    _HEIGHT = flags.DEFINE_integer("height", 240, "Pixels, even.", 16)
    _FPS = flags.DEFINE_float("fps", 30.0, "Frames per second.", 1)
    _REPEATS = flags.DEFINE_integer("repeats", 5, "Pairs that count.", 1)
    _DEVICE = flags.DEFINE_string("device", "", "A GPU where there is one unless told.")
    _COMPUTE_DTYPE = flags.DEFINE_string("compute_dtype", "", "float16 on a GPU unless told.")
    _CROPS_AT_ONCE = flags.DEFINE_integer("crops_at_once", 64, "Through the model.", 1)
    _PEAK_TFLOPS = flags.DEFINE_float("peak_tflops", 0.0, "cuda: of the GPU; 0 measures it.", 0)
    _JSON = flags.DEFINE_string("json", None, "File to write as well.")
    run_command(main, usage=__doc__)
