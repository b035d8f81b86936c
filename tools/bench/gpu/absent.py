"""Stands in for packages that modules of the report import but that the report doesn't use."""

import importlib
import sys
import types
from typing import Any

# msgspec types the JSON of stores, chex checks ranks: neither changes a figure.
SPARED = ("msgspec", "chex")


class Absent(Exception):
    """Any name of such a package: may be called, derived from and caught, and does nothing."""

    def __init__(self, *_: Any, **__: Any):
        super().__init__()

    def __init_subclass__(cls, **_: Any):
        super().__init_subclass__()


class _Package(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent


def stand_in() -> list[str]:
    """Fills in for those of SPARED that aren't installed; returns their names."""
    missing = []
    for name in SPARED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = _Package(name)
            missing.append(name)
    return missing
