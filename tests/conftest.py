"""Small stores, runs and models that many tests share."""

import atexit
import dataclasses
import functools
import gc
import importlib.util
import json
import os
import re
import shutil
import tempfile

import pytest

from tests import CHEAP_COMPILATION

# There are workers for all cores; more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Two devices are always there, so that nothing quietly depends on there being one.
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=2 {CHEAP_COMPILATION}")

# Programs are compiled once a suite, whatever test, worker or command they run in.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gvvad-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# What the workers of a session share; the first process of a session makes and removes it.
if "GVVAD_TESTS" not in os.environ:
    os.environ["GVVAD_TESTS"] = tempfile.mkdtemp(prefix="gvvad-tests-")
    atexit.register(shutil.rmtree, os.environ["GVVAD_TESTS"], ignore_errors=True)

from gvvad_jax import training
from gvvad_jax.config import TrainConfig
from gvvad_jax.store.reader import Store
from tests.support.stores import write_store

# Tracing makes so many objects that Python looked for garbage a twelfth of the time.
gc.set_threshold(50_000, 20, 100)

# What the extras install. Where the core is installed alone, a test that fails because one of these
# is missing, here or in a command that it runs, is skipped; missing anything else, it fails.
_OF_EXTRAS = (
    "PIL", "accelerate", "av", "cv2", "diffusers", "flatbuffers", "gradio", "h5py",
    "huggingface_hub", "jinja2", "matplotlib", "onnx", "onnxruntime", "openai", "paho", "pydantic",
    "ray", "sentencepiece", "torch", "transformers",
)  # fmt: skip
_MISSING = [name for name in _OF_EXTRAS if importlib.util.find_spec(name) is None]


def _skipped_without_its_extra(report):
    # In the representation of a string, quotes come escaped.
    missing = re.search(
        r"(?:No module named \\?'|expected the module )(\w+)",
        report.longreprtext if report.failed else "",
    )
    if missing and missing[1] in _MISSING:
        report.outcome = "skipped"
        report.longrepr = (report.nodeid.partition("::")[0], 0, f"needs {missing[1]}")
    return report


def pytest_xdist_auto_num_workers():
    """Half as many again as cores, because tests of commands wait for them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return -(-3 * cores // 2)


def pytest_collection_modifyitems(items):
    """Has files with slow tests run first, so that no worker ends alone with a long one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _skipped_without_its_extra((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _skipped_without_its_extra((yield))


@pytest.fixture(scope="session")
def real_store(tmp_path_factory):
    """Eight normal and seven abnormal training videos, six test videos."""
    path = tmp_path_factory.mktemp("stores") / "real"
    return write_store(path, {"train": (8, 7), "test": (3, 3)})


@pytest.fixture(scope="session")
def synthetic_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "synthetic"
    return write_store(path, {"train": (4, 5)}, source="synthetic", seed=1, prefix="syn-")


@pytest.fixture(scope="session")
def decisions(tmp_path_factory, synthetic_store):
    """Keeps every synthetic video but one."""
    path = tmp_path_factory.mktemp("decisions") / "decisions.jsonl"
    ids = sorted(Store(synthetic_store).rows)
    path.write_text("".join(json.dumps({"id": i, "keep": i != ids[0]}) + "\n" for i in ids))
    return path


@pytest.fixture(scope="session")
def settings(real_store, synthetic_store, decisions):
    """Of a short training of a small LAP; without a workdir."""
    return TrainConfig(
        store=str(real_store),
        synthetic_store=str(synthetic_store),
        synthetic_keep=str(decisions),
        detector="lap",
        segments=6,
        mtn_channels=4,
        head_widths=(8, 4),
        body_width=8,
        memory_rows=20,
        batch_size=3,
        steps=12,
        log_every=2,
        validate_every=4,
        checkpoint_every=4,
    )


@pytest.fixture(scope="session")
def trained(settings, tmp_path_factory):
    """A function from a detector to the config and the result of a run that tests share."""

    @functools.cache
    def run(detector):
        workdir = str(tmp_path_factory.mktemp("runs") / detector)
        config = dataclasses.replace(settings, detector=detector, workdir=workdir)
        return config, training.fit(config)

    return run


@pytest.fixture(scope="module")
def one_thread():
    """Of PyTorch: models as small as these only wait for each other's threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of tiny text-to-video models, by name."""
    from tests.support import tiny_pipelines

    return tiny_pipelines.Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def descriptions():
    from tests.support import tiny_pipelines

    return tiny_pipelines.short_descriptions(2)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """The folder of a tiny CLIP."""
    from tests.support import tiny_clip

    return tiny_clip.save(tmp_path_factory.mktemp("weights") / "tiny-clip")


@pytest.fixture(scope="session")
def _videos_folder(tmp_path_factory):
    from tests.support import tiny_videos

    return tiny_videos.write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def videos_folder(_videos_folder, tmp_path):
    """A folder of small videos, that a test may change."""
    return shutil.copytree(_videos_folder, tmp_path / "videos")
