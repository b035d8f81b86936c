"""The benchmark's counts and shape; never its times."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvvad_jax import detectors, step
from gvvad_jax.config import DETECTORS, TrainConfig
from gvvad_jax.store.reader import Store
from tools import bench_accuracy, bench_evaluation, bench_step, operations, torch_twin


@pytest.mark.parametrize("detector", DETECTORS)
def test_operations_are_those_that_xla_counts(detector):
    videos, crops, length, dim, text_dim = 2, 3, 16, 512, 256
    config = TrainConfig(detector=detector)
    model = detectors.by_name(detector).Detector(config)
    visual = jnp.zeros((videos, crops, length, dim))
    text = jnp.zeros((videos, length, text_dim)) if config.uses_text else None
    state = jax.eval_shape(lambda: step.init_state(config, dim, text_dim))
    score = jax.jit(lambda variables: model.apply(variables, visual, text).scores_VxT)
    counted = score.lower(step.scoring_variables(state)).cost_analysis()["flops"]
    found = operations.of_step(detector, videos, crops, length, dim, text_dim)["score"]
    if detector == "ur_dmu":  # Scoring asks for no variance.
        found -= 2.0 * videos * crops * length // 2 * 512 * 512
    # What isn't a product (norms, activations) is a few percent more.
    assert 0.95 * counted < found <= counted


def test_training_takes_two_or_three_times_the_products_of_scoring():
    for detector in DETECTORS:
        found = operations.of_step(detector, 64, 10, 32, 768, 768)
        assert 2 < found["train"] / found["score"] < 3
    # By hand, LAP at 32 segments: see docs/performance.md.
    assert operations.of_step("lap", 64, 10, 32, 768, 768)["train"] == pytest.approx(
        445.1e9, rel=1e-3
    )


def test_the_twin_with_text_once_gives_what_the_published_gives():
    import torch

    golden = np.load(pathlib.Path(__file__).parent / "golden" / "lap_concat_fixed_t64.npz")
    twins = [torch_twin.from_golden(dict(golden)) for _ in range(2)]
    twins[1].text_once = True
    batch = torch_twin.inputs(dict(golden))
    found = [torch_twin.losses(twin, twin(batch), batch) for twin in twins]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-6)


def test_a_test_set_has_the_size_of_ucf_crimes():
    lengths_V = bench_evaluation.lengths(290, 69_634)
    assert lengths_V.sum() == 69_634 and len(lengths_V) == 290 and lengths_V.min() >= 8


def test_ways_take_turns():
    order = []
    ways = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    found = bench_step.interleaved(ways, 2)
    assert order == ["a", "b", "b", "a"]
    assert found == {"a": [1.0, 4.0], "b": [2.0, 3.0]}


@pytest.mark.slow
def test_the_command_writes_its_figures(tmp_path):
    out = tmp_path / "bench.json"
    flags = ["--sections=step,data,metrics", "--detectors=lap", "--segments=8"]
    flags += ["--pairs=2", "--repeats=1", "--turn=0", f"--json={out}"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    row = found["step"]["lap"]["8"]
    assert {"seconds", "torch_seconds", "ratio", "share_of_matmul_peak"} <= row.keys()
    assert row["ratio_text_once"] > 0 and row["peak_bytes"]["ours"] > 1e6
    assert {"open_seconds", "resident", "mapped"} <= found["data"].keys()
    assert found["metrics"]["frames"] == 16 * 69_634


def test_a_store_as_float16_is_the_same_store(real_store, tmp_path):
    found = Store(bench_accuracy.as_float16(str(real_store), tmp_path / "float16"))
    original = Store(real_store)
    assert found.manifest.dtype == "float16" and found.rows.keys() == original.rows.keys()
    assert (tmp_path / "float16" / "bank.npy").exists()
    for video_id in found.rows:
        for rows in ("visual", "text"):
            expected = getattr(original, rows)(video_id).astype(np.float16)
            np.testing.assert_array_equal(getattr(found, rows)(video_id), expected)


def test_precisions_are_compared_seed_by_seed():
    found = bench_accuracy._summary([0.5, 0.7], plain=[0.4, 0.8])
    assert found["auc"] == pytest.approx(0.6) and found["difference"] == pytest.approx(0)
    assert found["difference_deviation"] == pytest.approx(0.02**0.5)
    assert found["deviation"] == pytest.approx(found["difference_deviation"])


@pytest.mark.parametrize(
    ("flag", "said"),
    [("sections=all", "expected of step"), ("segments=8,3", "5 or more, found ['3']")],
)
def test_bad_flags_are_one_line(flag, said):
    command = [sys.executable, "-m", "tools.bench", f"--{flag}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and said in done.stderr
