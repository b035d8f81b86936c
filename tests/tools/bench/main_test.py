"""The command: its figures and its mistakes; never its times."""

import json
import subprocess
import sys

import pytest


# LAP, whose text stream is compared as well, takes half a minute.
@pytest.mark.slow
@pytest.mark.parametrize("detector", ["mil_rank", pytest.param("lap", marks=pytest.mark.matrix)])
def test_the_command_writes_its_figures(tmp_path, detector):
    out = tmp_path / "bench.json"
    flags = ["--sections=step,metrics", f"--detectors={detector}", "--segments=8"]
    flags += ["--pairs=2", "--repeats=1", "--turn=0", f"--json={out}"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    row = figures["step"][detector]["8"]
    assert {"seconds", "torch_seconds", "ratio", "share_of_matmul_peak"} <= row.keys()
    assert row["peak_bytes"]["ours"] > 1e6
    assert detector != "lap" or row["ratio_text_once"] > 0
    assert figures["metrics"]["frames"] == 16 * 69_634


# Half a minute on a store of UCF-Crime's size.
@pytest.mark.matrix
def test_the_data_path_is_measured(tmp_path):
    out = tmp_path / "bench.json"
    flags = ["--sections=data", "--repeats=1", "--turn=0", f"--json={out}"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"open_seconds", "resident", "mapped"} <= json.loads(out.read_text())["data"].keys()


@pytest.mark.parametrize(
    ("flag", "message"),
    [("sections=all", "expected of step"), ("segments=8,3", "5 or more, found ['3']")],
)
def test_bad_flags_are_one_line(flag, message):
    command = [sys.executable, "-m", "tools.bench", f"--{flag}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and message in done.stderr
