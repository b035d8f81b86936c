"""Detectors (base models), one file each. A detector's file defines

    Detector(config, axis_name): a flax module, (visual, text, mask, noise=, train=) -> Outputs
    loss_terms(outputs, text, bank, config) -> {name: losses.Term}

To add one, write its file here and a line in config.DETECTORS that lists its inputs.
"""

import importlib
from types import ModuleType


def by_name(name: str) -> ModuleType:
    """Returns the module of a detector by its name in config.DETECTORS."""
    return importlib.import_module(f"gvvad_jax.detectors.{name}")
