"""What each side may import: the store is all that they share."""

import ast
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.once
ROOT = pathlib.Path(__file__).parent.parent
PYTORCH_SIDE = ("torch", "diffusers", "transformers", "generation", "tools", "cv2", "av")
JAX_SIDE = ("jax", "flax", "optax", "orbax", "tools")
SHARED = ("gvvad_jax.store", "gvvad_jax.command")


def _imports(path):
    """Every module imported anywhere in a file, with the names taken from it."""
    return _imports_of(ast.parse(path.read_text()))


def _imports_of(tree):
    for node in ast.walk(tree):
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


def test_numpy_is_all_that_the_store_needs_and_the_probe_no_more_of_scipy_than_it_uses():
    code = (
        "import sys; import gvvad_jax.store.writer, gvvad_jax.store.alignment, gvvad_jax.choosing; "
        "print([m for m in ('jax', 'torch', 'cv2', 'av', 'scipy.stats') if m in sys.modules])"
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


def _graph():
    """Which module of the project imports which, wherever in the file; types' imports left out."""
    paths = [path for folder in ("gvvad_jax", "generation", "tools") for path in _files(folder)]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }
    graph = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                node.body = []
        names = set(_imports_of(tree))
        names |= {name.rpartition(".")[0] for name in names}
        graph[module] = (names & modules.keys()) - {module, "gvvad_jax"}
    return graph


def test_no_modules_import_each_other_in_a_circle():
    graph = _graph()
    assert graph["gvvad_jax.step"] >= {"gvvad_jax.config", "gvvad_jax.losses"}
    # What imports nothing that is left goes, until a circle is all that is left.
    while free := [module for module, names in graph.items() if not names & graph.keys()]:
        for module in free:
            del graph[module]
    assert graph == {}
