"""Base models, one file each, found by name. A detector's file has

    Detector(config, axis_name): a flax module, (visual, text, mask, noise=, train=) -> Outputs
    loss_terms(outputs, text, bank, config) -> {name: losses.Term}

Adding one is a new file here and a line in config.DETECTORS that says what it takes.
"""

import importlib
from types import ModuleType


def by_name(name: str) -> ModuleType:
    """The file of the detector of this name, one of config.DETECTORS."""
    return importlib.import_module(f"gvvad_jax.detectors.{name}")
