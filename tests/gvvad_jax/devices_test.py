"""Eight devices, and two processes of two, take the steps that one device takes."""

import collections
import os
import subprocess

import numpy as np
import pytest

from gvvad_jax.config import DETECTORS
from tests import CHEAP_COMPILATION
from tests.support.ports import free_port
from tests.support.started import python

# Largest error relative to the largest value of an array. Float32 sums in another order differ in
# the last bits, which Adam's first steps enlarge where a gradient is small.
BOUNDS = {"float64": 1e-5, "float32": 1e-3}
# Compiling is most of the time, so the suite runs some detectors and `make devices` all of them:
# LAP by domain, which has everything; MIL-Rank with the rarer options, in float32, too; and RTFM
# for its BatchNorm.
QUICK = (("float64", "options"), ("float64", "domains"), ("float32", "options"))
QUICK_PROCESSES = (("float64", "rtfm"),)


def cases(quick):
    return [
        pytest.param(
            precision,
            config,
            marks=() if (precision, config) in quick else pytest.mark.matrix,
            id=f"{precision}-{config}",
        )
        for precision in BOUNDS
        for config in (*DETECTORS, "options", "domains")
    ]


def start(precision, config, out, *, devices, **environment):
    flags = f"{CHEAP_COMPILATION} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [*python(), "-m", "tests.support.device_steps", precision, str(out), config],
        env=os.environ | {"XLA_FLAGS": flags} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    said = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said


def read(path):
    """{(mode, config): {name: array}}"""
    results = collections.defaultdict(dict)
    with np.load(path) as file:
        for key, value in file.items():
            mode, config, name = key.split("/", 2)
            results[mode, config][name] = value
    return results


# The bias in front of the non-local block's BatchNorm, which takes it away again: its gradient is
# rounding and nothing else, in any precision, and Adam makes whole steps of that. What follows it
# and reaches no output: the running mean behind it, cancelling it, and the length of the update.
MEANINGLESS = (
    "['non_local']['W']['bias']",
    "['non_local']['W_norm']['mean']",
    "metric update_norm",
)


def require_equal(found, expected, bound):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith(MEANINGLESS):
            continue
        assert found[name].dtype == value.dtype
        scale = max(np.abs(value).max(initial=0), 1e-3)
        assert np.abs(found[name] - value).max(initial=0) <= bound * scale, name


def check(path, precision, config):
    results = read(path)
    for mode in ("pmap", "mesh"):
        require_equal(results[mode, config], results["single", config], BOUNDS[precision])


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "config"), cases(QUICK))
def test_eight_devices_take_the_same_steps_with_dropout_on(precision, config, tmp_path):
    finish([start(precision, config, tmp_path / "found.npz", devices=8)])
    check(tmp_path / "found.npz", precision, config)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "config"), cases(QUICK_PROCESSES))
def test_two_processes_take_the_same_steps_with_dropout_on(precision, config, tmp_path):
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    paths = [tmp_path / f"found{rank}.npz" for rank in range(2)]
    finish(
        [
            start(precision, config, path, devices=2, RANK=str(rank), **ranks)
            for rank, path in enumerate(paths)
        ]
    )
    for path in paths:
        check(path, precision, config)
