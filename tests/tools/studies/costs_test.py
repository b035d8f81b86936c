"""The costs: counted operations agree with a profiler's, and figures with their parts."""

import dataclasses

import pytest

from tools.studies import costs

ORDER = costs.Order(
    generator="cogvideox-2b",
    pairs=300,
    gpus=2,
    gpu_price=3.0,
    price_input=2.0,
    price_output=10.0,
    tokens_input=1000,
    tokens_output=500,
    crops=10,
    snippet_frames=16,
    peak_tflops=100,
    share_of_peak=0.5,
    bits_a_pixel=1.0,
)


def test_counted_operations_are_those_that_a_profiler_counts():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = transformers.CLIPVisionModel._from_config(config, attn_implementation="eager")
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(pixel_values=torch.zeros(1, 3, 32, 32))
    patches = 2 * 16 * (3 * 8 * 8) * 32
    expected = counter.get_total_flops() - patches
    assert costs.transformer_flops(3, 32, 17, 4) == pytest.approx(expected, rel=1e-6)


def test_figures_by_hand(monkeypatch):
    monkeypatch.setattr(costs, "parameters", lambda _: {"transformer": 1e9})
    figures = costs.budget(ORDER)
    assert figures["prompts_dollars"] == pytest.approx(300 * (1000 * 2 + 500 * 10) / 1e6)
    assert figures["generation_gpu_hours"] == pytest.approx(600 * 90 / 3600)
    assert figures["clips_gigabytes"] == pytest.approx(600 * 49 * 480 * 720 / 8 / 1e9)
    assert figures["snippets"] == {"real": 864000, "synthetic": 1838}
    assert figures["store_gigabytes"]["real"] == pytest.approx(864000 * 11 * 768 * 2 / 1e9)
    assert figures["weights_gigabytes"] == {"transformer": 2.0}
    parts = figures["generation_gpu_hours"] + figures["caption_gpu_hours"]
    assert figures["gpu_hours"] == pytest.approx(parts + sum(figures["clip_gpu_hours"].values()))
    assert figures["gpu_dollars"] == pytest.approx(3 * figures["gpu_hours"])
    table = costs.table(ORDER, figures)
    assert "$2.10" in table and "CogVideoX-5b's model card" in table


def test_no_price_is_no_sum(monkeypatch):
    monkeypatch.setattr(costs, "parameters", lambda _: {})
    free = dataclasses.replace(ORDER, price_input=None, gpu_price=None)
    figures = costs.budget(free)
    assert figures["prompts_dollars"] is None and figures["gpu_dollars"] is None
    assert "no price given" in costs.table(free, figures)
