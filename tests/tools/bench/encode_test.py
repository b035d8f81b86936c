"""The benchmark of encoding: both sides give the same features; counted operations."""

import numpy as np
import pytest
from transformers import CLIPVisionConfig

from gvvad_jax.command import UserError
from tests.support import tiny_clip
from tools.bench import encode, motion

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("crops", ["ten", "centre"])
def test_both_sides_agree_and_are_timed(tmp_path, crops, monkeypatch):
    videos = encode.write_videos(tmp_path, 2, 2.0, (240, 320), 10)
    weights = encode.save_model(tmp_path / "model", "tiny")
    encoder = tiny_clip.make_encoder(weights, crops=crops)
    figures = encode.measure(videos, weights, crops, encoder, 1)
    assert 0 < figures["relative_error"] < 0.001 and figures["ratio"] > 0
    # Two videos of 20 frames: two snippets each.
    assert figures["crops"] == 4 * (10 if crops == "ten" else 1)
    # Another order of crops, or of snippets, would be noticed.
    real = encode.encode_ahead
    axis = 1 if crops == "ten" else 0
    monkeypatch.setattr(
        encode, "encode_ahead", lambda *a: [np.roll(rows, 1, axis) for rows in real(*a)]
    )
    with pytest.raises(UserError, match="one of the two is wrong"):
        encode.measure(videos, weights, crops, encoder, 1)


def test_flops_of_a_vit():
    # By hand: 4 patches of 2x2x3, 5 tokens, width 8, 1 layer.
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=4, patch_size=2, projection_dim=6,
    )  # fmt: skip
    patches, attention, mlp = 4 * 12 * 8, 5 * 4 * 8 * 8 + 2 * 5 * 5 * 8, 5 * 2 * 8 * 32
    expected = 2 * (patches + attention + mlp + 8 * 6)
    assert encode.flops_a_crop(config) == expected
    large = CLIPVisionConfig(
        **encode.MODELS["vit-l14-random"], intermediate_size=4096, image_size=224
    )
    # About 81 billion multiplications a picture, as published for ViT-L/14.
    assert encode.flops_a_crop(large) == pytest.approx(2 * 81e9, rel=0.03)


def test_motion_is_timed_by_parts(tmp_path):
    videos = encode.write_videos(tmp_path, 1, 1.0, (48, 64), 25)
    figures = motion.measure(videos, 1.0, 2)
    parts = figures["cpu_seconds_a_video_second"]
    assert list(parts) == [
        "decoding", "features", "features, measures", "features, measures, captions",
    ]  # fmt: skip
    assert all(len(values) == 2 and min(values) > 0 for values in figures["rounds"].values())
    assert "| features | " in motion.report(figures | {"video": "v"})


def test_the_peak_is_measured_on_cpus_too():
    import torch

    assert 1e8 < encode.measured_peak("cpu", torch.float32) < 1e14
