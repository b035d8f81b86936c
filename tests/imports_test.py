"""What each side may import: the store is all that they share."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PYTORCH_SIDE = ("torch", "diffusers", "transformers", "generation", "tools", "cv2", "av")
JAX_SIDE = ("jax", "flax", "optax", "orbax", "tools")
SHARED = ("gvvad_jax.store", "gvvad_jax.command")


def _imports(path):
    """Every module imported anywhere in a file, with the names taken from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", _files("gvvad_jax"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_jax_side_never_imports_the_pytorch_side(path):
    assert not [name for name in _imports(path) if name.split(".")[0] in PYTORCH_SIDE]


@pytest.mark.parametrize("path", _files("generation"), ids=lambda path: str(path.relative_to(ROOT)))
def test_generation_imports_the_store_and_command_alone(path):
    for name in _imports(path):
        assert name.split(".")[0] not in JAX_SIDE
        if name.startswith("gvvad_jax"):
            assert name.startswith(SHARED), name


def test_numpy_is_all_that_the_store_needs():
    code = (
        "import sys; import gvvad_jax.store.writer, gvvad_jax.store.alignment; "
        "print([m for m in ('jax', 'torch', 'cv2', 'av') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_help_is_shown_before_anything_heavy_is_imported():
    code = (
        "import sys; from gvvad_jax import train, score, evaluate; "
        "print([m for m in ('jax', 'orbax', 'optax') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
