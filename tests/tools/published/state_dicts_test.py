"""Finding a detector's weights in files of torch.save, whatever else the files hold."""

import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import struct
import threading
import zipfile

import numpy as np
import pytest
import torch

from gvvad_jax.command import UserError
from tools.published import state_dicts

WEIGHTS = {
    "fc1.weight": torch.arange(6.0).reshape(2, 3),
    "fc1.bias": torch.tensor([0.5, -0.5]),
    "fc2.weight": torch.ones(1, 2),
    "Aggregate.conv_1.2.num_batches_tracked": torch.tensor(7),
}


def _read(tmp_path, content, name="model.pkl", **options):
    torch.save(content, tmp_path / name, **options)
    return state_dicts.read(str(tmp_path / name))


def _require_weights(state, leftovers=()):
    assert set(state) == {*WEIGHTS, *leftovers}
    for name, tensor in WEIGHTS.items():
        np.testing.assert_array_equal(state[name], tensor.numpy())
        assert state[name].dtype == np.float32


def _prefixed(prefix):
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


def _optimiser():
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return optimiser.state_dict()


@pytest.mark.parametrize(
    "content",
    [
        collections.OrderedDict(WEIGHTS),
        _prefixed("_orig_mod."),
        _prefixed("module."),
        _prefixed("model."),
        _prefixed("module._orig_mod.model.net."),
        {"Aggregate._orig_mod.conv_1.2.num_batches_tracked": torch.tensor(7)}
        | {n: t for n, t in WEIGHTS.items() if n.startswith("fc")},
        {"state_dict": WEIGHTS},
        {"model_state_dict": _prefixed("module.")},
        {"checkpoint": {"model": {"state_dict": {"state_dict": _prefixed("model._orig_mod.")}}}},
        {"net": WEIGHTS, "optimizer": _optimiser(), "epoch": 3, "lr": [1e-3, 1e-4]},
        {"nets": [WEIGHTS]},
        {"state_dict": WEIGHTS, "auc": np.float64(0.84), "best": np.float32(0.8), "n": np.int64(3)},
        {"state_dict": WEIGHTS, "ok": np.bool_(True), "name": np.str_("ucf")},
        {"state_dict": WEIGHTS, "aucs": np.array([0.7, 0.8]), "rng": torch.get_rng_state()},
        WEIGHTS | {"auc": np.float64(0.84), "epoch": 3},
        {name: tensor.numpy() for name, tensor in WEIGHTS.items()},
        {name: torch.nn.Parameter(t.float()) for name, t in WEIGHTS.items()},
        {name: tensor.half() for name, tensor in WEIGHTS.items()},
    ],
)
def test_weights_are_found_wherever_they_are(tmp_path, content):
    _require_weights(_read(tmp_path, content))
    _require_weights(_read(tmp_path, content, _use_new_zipfile_serialization=False))


def test_scalars_of_numpy_1_are_read(tmp_path):
    torch.save({"auc": np.float64(0.5), "state_dict": WEIGHTS}, tmp_path / "new.pkl",
               _use_new_zipfile_serialization=False)  # fmt: skip
    content = (tmp_path / "new.pkl").read_bytes()
    assert b"numpy._core.multiarray" in content
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old.pkl").write_bytes(old)
    _require_weights(state_dicts.read(str(tmp_path / "old.pkl")))


def test_deep_nesting_and_cycles_are_followed(tmp_path):
    content = {"state_dict": WEIGHTS}
    content["itself"] = content
    for _ in range(5000):
        content = {"state_dict": content}
    # Python's own pickler recurses; the file of a hostile writer needs no recursion.
    import sys

    limit = sys.getrecursionlimit()
    result = []

    def save():
        sys.setrecursionlimit(100_000)
        try:
            torch.save(content, tmp_path / "deep.pkl")
            sys.setrecursionlimit(limit)
            result.append(state_dicts.read(str(tmp_path / "deep.pkl")))
        finally:
            sys.setrecursionlimit(limit)

    size = threading.stack_size(512 << 20)
    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    threading.stack_size(size)
    _require_weights(result[0])


def test_parameters_beside_the_weights_are_left_over(tmp_path):
    content = {"state_dict": _prefixed("model.") | {"criterion.weight": torch.ones(2)}}
    _require_weights(_read(tmp_path, content), ["criterion.weight"])
    content = {"state_dict": _prefixed("model.") | {"fc1.bias": torch.zeros(2)}}
    _require_weights(_read(tmp_path, content), [".fc1.bias"])


def test_two_sets_of_weights_are_named(tmp_path):
    averages = {name: tensor for name, tensor in WEIGHTS.items() if name.startswith("fc1")}
    with pytest.raises(UserError, match="found several, at 'model' and 'ema.shadow'"):
        _read(tmp_path, {"model": WEIGHTS, "ema": {"shadow": averages}})
    with pytest.raises(UserError, match="found several, at 'student.' and 'teacher.'"):
        _read(tmp_path, _prefixed("student.") | _prefixed("teacher."))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "'fc2.weight', which is sparse or nested"),
        (lambda: torch.eye(3).to_sparse_csr(), "which is sparse or nested"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "which is quantised",
        ),
        (lambda: torch.ones(3, dtype=torch.complex64), "which is complex"),
        (lambda: torch.empty(3, device="meta"), r"without values \(meta\)"),
        (
            lambda: torch.zeros(1).expand(1 << 20, 1 << 20),
            "found 10995116277.*: tensors that are expanded",
        ),
        (
            lambda: torch.tensor([np.inf]),
            "expected finite parameters, found 'fc2.weight' and 0 more",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_tensors_are_named(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        _read(tmp_path, WEIGHTS | {"fc2.weight": make()})
    assert "model.pkl: expected" in str(caught.value)


def _compressed(path):
    torch.save({"fc1.weight": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def _safetensors(path):
    header = json.dumps({"fc1.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))


def _cut(path):
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_text("hello"), "found another kind of file, or objects"),
        (lambda p: p.write_bytes(b""), "found an empty file"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"), "Git LFS pointer"),
        (lambda p: p.write_text("<html>"), "found a web page"),
        (_safetensors, "found a safetensors file"),
        (_cut, "found a file that is cut short or damaged"),
        (_compressed, "found one that unpacks to 419"),
        (lambda p: torch.save(argparse.Namespace(x=1), p), "found an object of argparse.Namespace"),
        (lambda p: torch.save(torch.nn.Linear(1, 1), p), "an object of torch.nn.modules.linear"),
        (lambda p: torch.jit.save(torch.jit.script(torch.nn.ReLU()), p), "a TorchScript archive"),
        (os.mkfifo, "found no regular file"),
        (pathlib.Path.mkdir, "found no regular file"),
        (lambda p: None, "found No such file or directory"),
        (lambda p: torch.save(WEIGHTS["fc1.bias"], p), "tensors by name, found Tensor"),
        (lambda p: torch.save({}, p), "tensors by name, found dict of other objects"),
        (lambda p: torch.save({3: torch.ones(1)}, p), "tensors by name, found dict"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_true_cause_is_told_in_one_line(tmp_path, write, message):
    path = tmp_path / "bad.pkl"
    write(path)
    with pytest.raises(UserError, match=message) as caught:
        state_dicts.read(str(path))
    text = str(caught.value)
    assert "bad.pkl: expected" in text and "\n" not in text and "weights_only=False" not in text


class _Evil:
    def __reduce__(self):
        return (open, ("evil-ran", "w"))


def test_a_file_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"fc1.weight": _Evil()}, buffer)
    pathlib.Path("evil.pkl").write_bytes(buffer.getvalue())
    pathlib.Path("plain.pkl").write_bytes(pickle.dumps({"fc1.weight": _Evil()}))
    pathlib.Path("array.pkl").write_bytes(
        pickle.dumps({"fc1.weight": np.array([_Evil()], dtype=object)})
    )
    pathlib.Path("dot.pkl").write_text(".")
    for name in ("evil.pkl", "plain.pkl", "array.pkl", "dot.pkl", "missing.pkl"):
        with pytest.raises(UserError, match=f"{name}: expected a PyTorch state dict") as caught:
            state_dicts.read(name)
        assert "False" not in str(caught.value)  # No advice to load it unsafely.
    assert not pathlib.Path("evil-ran").exists()
