"""Training in several processes: real ones, one of which is killed."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import CHEAP_COMPILATION
from tests.support.ports import free_port
from tests.support.started import python

STEPS = 40


def start(store, workdir, *flags, devices=2, begin=None, **environment):
    """A training process; float64, so that runs differ by nothing but mistakes."""
    xla = f"{CHEAP_COMPILATION} --xla_force_host_platform_device_count={devices}"
    command = [*(begin or python()), "-m", "gvvad_jax.train"]
    command += [f"--store={store}", f"--workdir={workdir}"]
    command += ["--detector=mil_rank", "--precision=float64", "--segments=4", "--batch_size=4"]
    command += [f"--steps={STEPS}", "--log_every=1", "--validate_every=20", "--checkpoint_every=10"]
    return subprocess.Popen(
        [*command, *flags],
        env=os.environ | {"XLA_FLAGS": xla} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(store, workdir, mode, begin=None):
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    flags = f"--parallel={mode}", "--processes=ranks"
    return [
        start(store, workdir, *flags, begin=begin, RANK=str(rank), **ranks) for rank in range(2)
    ]


def finish(process):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    # Gloo writes to standard output as well.
    results = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return results[0] if results else None


def logged(workdir):
    """Training metrics by step."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return {entry["step"]: entry for entry in entries if "loss" in entry}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "mode"), [(1, "mesh"), pytest.param(0, "pmap", marks=pytest.mark.matrix)]
)
def test_a_killed_process_ends_the_others_and_any_devices_go_on(killed, mode, real_store, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = finish(start(real_store, whole, devices=1))
    processes = start_two(real_store, broken, mode, begin=[sys.executable])
    while max(logged(broken), default=0) < 14:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[killed].kill()
    said = processes[1 - killed].communicate(timeout=60)[1]
    assert processes[1 - killed].returncode != 0
    assert f"error: process {1 - killed} of 2" in said
    assert "start all of them again with the same command" in said
    done = max(logged(broken))
    assert done < STEPS
    # Two processes go on, then one with other devices in the other mode.
    if mode == "mesh":
        result, others = [finish(process) for process in start_two(real_store, broken, mode)]
        assert others is None  # Only the first process has a result.
    else:
        result = finish(start(real_store, broken, "--parallel=mesh", devices=4))
    for name, value in expected["last"].items():
        if isinstance(value, float):
            value = pytest.approx(value, rel=1e-6)
        assert result["last"][name] == value, name
    assert logged(broken).keys() == logged(whole).keys() == set(range(1, STEPS + 1))
    for step, entry in logged(whole).items():
        for name, value in entry.items():
            np.testing.assert_allclose(logged(broken)[step][name], value, rtol=1e-5, atol=1e-9)
