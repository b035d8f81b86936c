"""The report's parts: each has a process and a time of its own, and loses nothing of the others."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tools.bench.gpu import report

# A part that does what its name says.
PART = '''
import json, os, pathlib, subprocess, sys, time
arguments = json.loads(sys.argv[1])
out, name = pathlib.Path(arguments["out"]), arguments["part"]
out.write_text(json.dumps({"device": "cuda", "saw": arguments["device"]}))
if name == "step hangs":
    child = subprocess.Popen(["sleep", "1000"])
    out.write_text(json.dumps({"child": child.pid, "preallocate": os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]}))
    time.sleep(1000)
if name == "step fails":
    raise MemoryError("out of memory")
'''  # fmt: skip  # noqa: E501


def _runs(pid):
    """Whether a process runs; one that has ended may still be waited for."""
    status = pathlib.Path(f"/proc/{pid}/status")
    return status.exists() and "(zombie)" not in status.read_text()


def test_parts_that_hang_or_fail_keep_their_figures_and_the_others(tmp_path, monkeypatch):
    (tmp_path / "a_part.py").write_text(PART)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(report, "LEAST_SECONDS", 1.0)
    parts = {"machine": 60.0, "step fails": 60.0, "step hangs": 2.0, "clip": 60.0, "seeds": 0.5}
    path, said = tmp_path / "report.json", []
    report.run(str(path), 300.0, parts, "a_part", said.append)
    written = json.loads(path.read_text())
    assert written["machine"]["device"] == "cuda"
    # What the machine is is known to the parts that follow.
    assert written["step"]["fails"]["saw"] == "cuda" and written["clip"]["saw"] == "cuda"
    outcomes = written["parts"]
    assert "skipped" not in outcomes["machine"] and "skipped" not in outcomes["clip"]
    assert outcomes["step fails"]["skipped"] == "MemoryError: out of memory"
    assert outcomes["step hangs"]["skipped"] == "not done within its 2 s"
    assert written["step"]["hangs"]["preallocate"] == "false"
    assert not _runs(written["step"]["hangs"]["child"])
    assert outcomes["seeds"]["skipped"] == "no time left of 300 s" and len(said) == len(parts)


def test_the_file_is_written_after_each_part(tmp_path, monkeypatch):
    (tmp_path / "a_part.py").write_text(PART)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "report.json"
    seen = []
    parts = {"machine": 60.0, "clip": 60.0}
    report.run(
        str(path), 300.0, parts, "a_part", lambda _: seen.append(path.exists() and path.read_text())
    )
    assert not seen[0] and "machine" in json.loads(seen[1])


# Runs a command as where these packages aren't installed.
WITHOUT = """
import runpy, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("msgspec", "chex", "av", "cv2", "diffusers", "tensorboardX"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
from tools.bench.gpu import absent
print(absent.stand_in())
from tools.bench.gpu import parts, sides
from gvvad_jax import parallel, step, together
from tools.published import comparison
"""


def test_the_parts_load_without_the_packages_that_they_can_spare():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "['msgspec', 'chex']"


# Four minutes: `make devices` runs it, and parts_test.py the parts.
@pytest.mark.matrix
def test_the_command_runs_at_tiny_sizes_without_a_gpu(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "tools.bench", "--gpu", f"--json={out}", "--gpu_seconds=280"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert written["machine"]["device"] == "cpu"
    assert written["parts"].keys() == report.PARTS.keys()
    # A busy machine may not come to the last parts; what was done is whole.
    if "skipped" not in written["parts"]["step lap"]:
        row = written["step"]["lap"]["8"]
        assert row["ratio"] > 0 and row["share_of_matmul_peak"] > 0
        assert row["precisions"]["bfloat16"]["ratio"] > 0
