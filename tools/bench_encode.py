"""Times how fast videos become CLIP features, compared with a plain loop of the same features.

    python -m tools.bench_encode [--json=FILE]
    python -m tools.bench_encode --device=cuda --weights=vit-l14-random
    python -m tools.bench_encode --encoder=motion --clips=1 --seconds=60 --width=1280 \\
        --height=720 --fps=25

The plain loop decodes, resizes and embeds one frame after the other with PIL; see
tools/bench/encode.py. Both are timed in turn, video files to features, with the model loaded; the
table has medians over the pairs. `--weights=tiny` is a random CLIP of 2 layers and width 64, for
which decoding and preprocessing dominate; `vit-b32-random` and `vit-l14-random` have random
weights, the latter for GPUs. The share of the peak counts the operations of the model alone against
large matrix products on the same device.

`--encoder=motion` prints the CPU seconds that the motion encoder takes for a second of video.
"""

import os
import pathlib
import tempfile
from typing import Any

from absl import flags

from gvvad_jax.command import run_command
from gvvad_jax.store import annotations
from gvvad_jax.store.files import write_json
from tools.bench import encode, motion


def main(_: list[str]) -> None:
    # As generation.encode does; the plain loop gains by it too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    values = flags.FLAGS
    if values.json:
        pathlib.Path(values.json).resolve().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root, size = pathlib.Path(folder), (values.height, values.width)
        videos = encode.write_videos(root, values.clips, values.seconds, size, values.fps)
        described = (
            f"{values.clips} x {values.seconds:g} s, {values.width}x{values.height}, "
            f"{values.fps:g} fps"
        )
        if values.encoder == "motion":
            figures = motion.measure(videos, values.clips * values.seconds, values.repeats)
            figures, shown = figures | {"video": described}, motion.report
        else:
            figures, shown = _clip(root, videos) | {"video": described}, encode.report
    print(shown(figures))
    if values.json:
        write_json(values.json, figures)


def _clip(root: pathlib.Path, videos: annotations.Annotations) -> dict[str, Any]:
    """Times CLIP beside the plain loop."""
    from generation.encoders.images import ImageEncoder
    from generation.encoders.options import VisualOptions

    values = flags.FLAGS
    weights = values.weights
    if weights in encode.MODELS:
        weights = encode.save_model(root / "model", weights)
    options = VisualOptions(
        encoder="clip-l14", weights=str(weights), pooling="middle", crops=values.crops,
        compute_dtype=values.compute_dtype, device=values.device,
        crops_at_once=values.crops_at_once,
    )  # fmt: skip
    encoder = ImageEncoder(options)
    figures = encode.measure(videos, weights, values.crops, encoder, values.repeats)
    frames = values.clips * round(values.seconds * values.fps)
    seconds = figures["seconds"]
    peak = values.peak_tflops * 1e12
    peak = peak or encode.measured_peak(encoder.device, encoder.model.dtype)
    reached = encode.flops_a_crop(encoder.model.config) * figures["crops"] / seconds["ours"]
    return figures | {
        "model": f"{values.weights}, {encoder.dtype}, {values.crops} crops, middle frame",
        "frames_a_second": {side: frames / seconds[side] for side in seconds},
        "crops_a_second": {side: figures["crops"] / seconds[side] for side in seconds},
        "peak_tflops": peak / 1e12,
        "share_of_peak": reached / peak,
    }


if __name__ == "__main__":
    flags.DEFINE_enum("encoder", "clip", ["clip", "motion"], "What turns frames into features.")
    flags.DEFINE_string(
        "weights", "tiny", f"Weights of CLIP: {', '.join(encode.MODELS)}, or a checkpoint's folder."
    )
    flags.DEFINE_enum("crops", "ten", ["ten", "centre"], "Crops of a frame.")
    flags.DEFINE_integer("clips", 3, "Number of videos.", 1)
    flags.DEFINE_float("seconds", 8.0, "Duration of each video in seconds.", 0.1)
    flags.DEFINE_integer("width", 320, "Width of the videos in pixels, even.", 16)
    flags.DEFINE_integer("height", 240, "Height of the videos in pixels, even.", 16)
    flags.DEFINE_float("fps", 30.0, "Frames per second of the videos.", 1)
    flags.DEFINE_integer("repeats", 5, "Number of pairs of timings.", 1)
    flags.DEFINE_string(
        "device",
        "",
        "Device for the models, e.g. cuda or cpu (default: this rank's GPU, else the CPU).",
    )
    flags.DEFINE_string(
        "compute_dtype",
        "",
        "Number format of the models: float32, float16 or bfloat16 (default: by the device).",
    )
    flags.DEFINE_integer(
        "crops_at_once", 64, "Crops that go through the visual encoder in one batch.", 1
    )
    flags.DEFINE_float("peak_tflops", 0.0, "Peak of the device in TFLOP/s; 0 measures it.", 0)
    flags.DEFINE_string("json", None, "JSON file to write the figures to.")
    run_command(main, usage=__doc__)
