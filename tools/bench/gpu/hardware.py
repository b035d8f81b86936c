"""What the machine is, and what its GPU can do at most."""

import importlib.metadata
import os
from collections.abc import Iterator
from typing import Any

# Dense TFLOP/s of NVIDIA's data sheets, without sparsity; the first name that fits counts.
RATED = {
    "B200": {"float32": 75.0, "tf32": 1100.0, "bfloat16": 2250.0},
    "H200": {"float32": 67.0, "tf32": 494.0, "bfloat16": 989.0},
    "H100 PCIe": {"float32": 51.0, "tf32": 378.0, "bfloat16": 756.0},
    "H100": {"float32": 67.0, "tf32": 494.0, "bfloat16": 989.0},
    "A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0},
    "L40S": {"float32": 91.6, "tf32": 183.0, "bfloat16": 362.0},
    "L4": {"float32": 30.3, "tf32": 60.0, "bfloat16": 121.0},
    "A10": {"float32": 31.2, "tf32": 62.5, "bfloat16": 125.0},
    "RTX 4090": {"float32": 82.6, "tf32": 82.6, "bfloat16": 165.2},
}
PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers", "diffusers")


def rated(name: str) -> dict[str, float] | None:
    """TFLOP/s by precision of the GPU of this name; None if it isn't listed."""
    return next((rates for known, rates in RATED.items() if known in name), None)


def rated_operations(precision: str) -> float | None:
    """Operations a second of this machine's GPU by its data sheet; None if that isn't listed."""
    import torch

    rates = rated(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return 1e12 * rates[precision] if rates else None


def machine() -> dict[str, Any]:
    """Describes the machine: "device" is cuda if both JAX and PyTorch see a GPU, else cpu."""
    import jax
    import torch

    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    described: dict[str, Any] = {
        "device": "cuda" if on_gpu else "cpu",
        "jax_devices": [device.device_kind for device in jax.devices()],
        "cores": os.cpu_count(),
        "versions": dict(_versions()),
    }
    if not torch.cuda.is_available():
        return described | {"torch_device": None}
    name = torch.cuda.get_device_name()
    return described | {
        "torch_device": name,
        "memory_bytes": torch.cuda.mem_get_info()[1],
        "rated_teraoperations": rated(name),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed"
