"""Tiny random vision models of each family, saved like published ones, and what their own
processors make of frames.

`python -m tests.support.tiny_vision` writes GOLDEN again. It needs torchvision and timm; the tests
that compare with it don't.
"""

import json
import pathlib

import numpy as np

from tests.support import tiny_clip

GOLDEN = pathlib.Path(__file__).with_name("preprocessing.npz")
SIZE = 16
FRAME_SIZES = ((48, 64), (53, 38), (18, 31))
KINDS = ("clip", "siglip2", "pe-core", "dinov3", "vjepa2")
# The value of --encoder for each kind.
ENCODERS = {kind: kind for kind in KINDS} | {"clip": "clip-b16"}
_SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": SIZE, "patch_size": 8,
}  # fmt: skip
_COLOURS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}


def picture(height, width, seed=0):
    """Returns a picture with large and small structure and hard edges."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))
    fine = rng.normal(0, 12, (height, width, 3))
    return np.clip(coarse[:height, :width] + fine, 0, 255).astype(np.uint8)


def frames_of_sizes():
    """Returns one frame of each of FRAME_SIZES."""
    return [picture(*size, seed) for seed, size in enumerate(FRAME_SIZES)]


def save(kind, folder):
    """Saves a model with its processor's configuration; returns the folder's name."""
    folder = pathlib.Path(folder)
    if kind == "clip":
        return tiny_clip.save(folder)
    model = _model(kind)
    _enliven(model)
    model.save_pretrained(folder)
    square = {"height": SIZE, "width": SIZE}
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 2}
    settings = steps | _COLOURS | {"rescale_factor": 1 / 255, "size": square}
    name = "preprocessor_config.json"
    if kind == "siglip2":
        settings |= {"image_processor_type": "SiglipImageProcessor"}
    elif kind == "dinov3":
        settings |= {"image_processor_type": "DINOv3ViTImageProcessorFast"}
    elif kind == "vjepa2":
        name = "video_preprocessor_config.json"
        settings |= {"video_processor_type": "VJEPA2VideoProcessor", "do_center_crop": True}
        settings |= {"crop_size": square, "size": {"shortest_edge": 292}}
    if kind != "pe-core":
        (folder / name).write_text(json.dumps(settings))
    return str(folder)


def _model(kind):
    import torch
    import transformers

    torch.manual_seed(0)
    if kind == "siglip2":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**_SMALL))
    if kind == "dinov3":
        return transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**_SMALL, num_register_tokens=2)
        )
    if kind == "vjepa2":
        names = {"image_size": "crop_size"}
        small = {names.get(name, name): value for name, value in _SMALL.items()}
        return transformers.VJEPA2Model(
            transformers.VJEPA2Config(
                **small, frames_per_clip=8, tubelet_size=2, pred_hidden_size=16,
                pred_num_attention_heads=2, pred_num_hidden_layers=1, pred_num_mask_tokens=1,
            )
        )  # fmt: skip
    shape = {"input_size": [3, SIZE, SIZE], "interpolation": "bicubic", "crop_pct": 1.0}
    mean, std = _COLOURS["image_mean"], _COLOURS["image_std"]
    config = transformers.TimmWrapperConfig.from_dict(
        {
            "architecture": "vit_pe_core_tiny_patch16_384",
            "num_classes": 6,
            "label_names": list("abcdef"),
            "pretrained_cfg": shape | {"crop_mode": "center", "mean": mean, "std": std},
            "model_args": {
                "img_size": SIZE, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2,
                "ref_feat_shape": (2, 2),
            },
        }
    )  # fmt: skip
    return transformers.TimmWrapperForImageClassification(config)


def _enliven(model):
    """Makes different pictures give very different rows."""
    import torch

    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)


def processed(kind, folder, frame):
    """Returns what the checkpoint's own processor makes of a frame, float32 [3, SIZE, SIZE]."""
    import transformers

    if kind == "vjepa2":
        processor = transformers.VJEPA2VideoProcessor.from_pretrained(folder)
        return processor(frame[None], return_tensors="np")["pixel_values_videos"][0, 0]
    processor = {
        "clip": "CLIPImageProcessor",
        "siglip2": "SiglipImageProcessor",
        "dinov3": "DINOv3ViTImageProcessor",
        "pe-core": "TimmWrapperImageProcessor",
    }[kind]
    processor = getattr(transformers, processor).from_pretrained(folder)
    if kind == "pe-core":
        return processor(frame)["pixel_values"][0].numpy()
    return processor(frame, return_tensors="np")["pixel_values"][0]


def main():
    """Writes GOLDEN."""
    import tempfile

    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            weights = save(kind, pathlib.Path(folder) / kind)
            for number, frame in enumerate(frames_of_sizes()):
                arrays[f"{kind}/{number}"] = np.asarray(processed(kind, weights, frame))
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
