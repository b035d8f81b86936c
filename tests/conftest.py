"""Small stores, runs and models that many tests share."""

import atexit
import dataclasses
import functools
import importlib.util
import json
import os
import re
import shutil
import tempfile

import numpy as np
import pytest

from tests import CHEAP_COMPILATION

# Two devices are always there, so that nothing quietly depends on there being one.
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=2 {CHEAP_COMPILATION}")

# Programs are compiled once a suite, whatever test, worker or command they run in.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gvvad-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

from gvvad_jax import annotations, store, train
from gvvad_jax.config import TrainConfig
from gvvad_jax.store_writer import Writer

DIM, TEXT_DIM, CROPS = 12, 8, 2

# What the extras install. Where the core is installed alone, a test that fails because one of these
# is missing, here or in a command that it runs, is skipped; missing anything else, it fails.
_OF_EXTRAS = (
    "PIL", "accelerate", "av", "cv2", "diffusers", "huggingface_hub", "openai", "pydantic", "ray",
    "safetensors", "sentencepiece", "torch", "transformers",
)  # fmt: skip
_MISSING = [name for name in _OF_EXTRAS if importlib.util.find_spec(name) is None]


def _skipped_without_its_extra(report):
    # In the representation of a string, quotes come escaped.
    told = re.search(r"No module named \\?'(\w+)", report.longreprtext if report.failed else "")
    if told and told[1] in _MISSING:
        report.outcome = "skipped"
        report.longrepr = (report.nodeid.partition("::")[0], 0, f"needs {told[1]}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _skipped_without_its_extra((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _skipped_without_its_extra((yield))


def make_manifest(**changes) -> store.Manifest:
    fields = {
        "encoder": {"id": "test", "weights": "none", "pooling": "none", "normalised": False},
        "dim": DIM,
        "crops": {"count": CROPS, "order": "whole, mirrored"},
        "snippet": {"frames": 4, "stride": 4, "pooling": "mean"},
        "fps_policy": "native",
        "text": {"encoder": "words", "dim": TEXT_DIM, "normalised": True},
    }
    return store.Manifest(**(fields | changes))


def write_store(path, splits, *, source="real", seed=0, prefix="", manifest=None, lengths=(3, 12)):
    """A store of random features in which abnormal snippets stand out.

    Args:
      path: its folder.
      splits: {split: (number of normal videos, number of abnormal ones)}.
      source: real or synthetic.
      seed: of the features.
      prefix: of the video ids.
      manifest: another than `make_manifest()`.
      lengths: fewest and most snippets a video.
    """
    manifest = manifest or make_manifest()
    rng = np.random.default_rng(seed)
    videos, rows = {}, []
    for split, counts in splits.items():
        for label, count in enumerate(counts):
            for i in range(count):
                video_id = f"{prefix}{split}-{label}-{i}"
                length = int(rng.integers(lengths[0], lengths[1] + 1))
                start = int(rng.integers(0, length))
                visual_TxNxD = rng.normal(size=(length, CROPS, manifest.dim))
                text_TxE = rng.normal(size=(length, (manifest.text or {"dim": TEXT_DIM})["dim"]))
                if label:
                    visual_TxNxD[start : start + 2, :, :3] += 3.0
                    text_TxE[start : start + 2, :2] += 3.0
                frames = 4 * length
                videos[video_id] = {
                    "file": f"{video_id}.mp4",
                    "label": label,
                    "split": split,
                    "num_frames": frames,
                    "class": "Arson" if label else "Normal",
                    "abnormal_frames": [[4 * start, min(4 * start + 8, frames)]] if label else [],
                }
                row = store.Row(
                    id=video_id,
                    num_snippets=length,
                    num_frames=frames,
                    fps=10.0,
                    source=source,
                    declared_frames=frames,
                    decoded_frames=frames,
                )
                rows.append((row, visual_TxNxD, text_TxE if manifest.text else None))
    content = {"fps": 10, "videos": videos}
    writer = Writer(path, manifest, annotations.from_json(content, "videos.json"))
    for row, visual_TxNxD, text_TxE in rows:
        writer.add(row, visual_TxNxD, text_TxE)
    assert writer.pack()
    np.save(path / "bank.npy", np.eye(3, TEXT_DIM, dtype=np.float32))
    return path


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
    ids = sorted(store.Store(synthetic_store).rows)
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
        return config, train.train(config)

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
    from tests import tiny_pipelines

    return tiny_pipelines.Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def descriptions():
    from tests import tiny_pipelines

    return tiny_pipelines.short_descriptions(2)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """The folder of a tiny CLIP."""
    from tests import tiny_clip

    return tiny_clip.save(tmp_path_factory.mktemp("weights") / "tiny-clip")


@pytest.fixture(scope="session")
def _clips(tmp_path_factory):
    from tests import tiny_videos

    return tiny_videos.write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def clips(_clips, tmp_path):
    """A folder of small videos, to be done with as one likes."""
    return shutil.copytree(_clips, tmp_path / "clips")
