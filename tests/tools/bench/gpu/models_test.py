"""Random models at tiny sizes, and the branches that need a GPU with a fake one; never a time."""

import pytest
import torch

from tools.bench import encode
from tools.bench.gpu import hardware, models

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def a_gpu(monkeypatch):
    """An H100 of 80 GB, of which 10 GB are free, that computes on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10e9, 80e9))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(encode, "measured_peak", lambda device, dtype: 500e12)


def test_a_tiny_clip_on_the_cpu():
    kept = []
    models.clip("cpu", float("inf"), lambda figures: kept.append(str(figures)))
    assert len(kept) == 1 and "crops_a_second" in kept[0] and "share_of" not in kept[0]


def test_shares_are_of_both_peaks(a_gpu):
    assert hardware.rated("NVIDIA H100 PCIe")["bfloat16"] == 756.0
    assert hardware.rated("NVIDIA A100-SXM4-80GB")["tf32"] == 156.0
    assert hardware.rated("NVIDIA GeForce GTX 1080") is None
    assert hardware.rated_operations("bfloat16") == 989e12
    assert models._peaks("cuda", "bfloat16", torch.bfloat16) == {
        "matmul_peak": 500e12, "rated_peak": 989e12,
    }  # fmt: skip
    described = hardware.machine()  # JAX sees no GPU here.
    assert described["device"] == "cpu" and described["memory_bytes"] == 80e9
    assert described["rated_teraoperations"]["float32"] == 67.0


def test_a_batch_that_does_not_fit_is_named(monkeypatch):
    def forward(pixel_values):
        raise torch.OutOfMemoryError("no room")

    assert models._clip_row(forward, 2, "cpu", torch.float32) == {"skipped": "out of memory"}


def test_cogvideox_tiny_and_whole_only_where_it_fits(a_gpu, monkeypatch):
    pytest.importorskip("diffusers")
    kept = {}
    step = models._cogvideox_step
    monkeypatch.setattr(models, "_cogvideox_step", lambda settings, _: step(settings, "cpu"))
    models.cogvideox("cuda", kept.update)
    assert kept["cogvideox-2b"] == {"skipped": "takes a GPU with 12 GB free, found 10"}
    # Two latent frames of 4 x 4 patches, and the text.
    assert kept["tiny"]["tokens"] == 2 * 16 + 226 and kept["tiny"]["seconds"] > 0
    width, tokens = 128, 258
    counted = 2 * 2 * (12 * width**2 * tokens + 2 * tokens**2 * width)
    assert kept["tiny"]["teraoperations"] == pytest.approx(counted / 1e12)
