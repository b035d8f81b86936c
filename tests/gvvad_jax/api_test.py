"""The public API, as `import gvvad_jax as gv` offers it."""

import importlib
import pkgutil
import types

import pytest

import gvvad_jax as gv

ROOT = __import__("pathlib").Path(__file__).parents[2]


def _modules():
    return [name for _, name, _ in pkgutil.walk_packages(gv.__path__, "gvvad_jax.")]


def test_no_name_is_a_modules():
    for name in _modules():
        if not name.endswith("__main__"):
            importlib.import_module(name)
    for name in gv.__all__:
        assert not isinstance(getattr(gv, name), types.ModuleType), name
        assert name in dir(gv)
    assert all(callable(getattr(gv, name)) for name in gv.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'train_model'"):
        gv.train_model  # noqa: B018
