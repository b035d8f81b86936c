"""Processes that work for another one, and end with it."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import workers as processes
from tools.studies import sharing

ROOT = pathlib.Path(__file__).parents[3]


def square(number):
    if number < 0:
        raise UserError(f"number: expected at least 0, found {number}")
    return number * number


def rank():
    return os.environ["RANK"], os.environ["WORLD_SIZE"]


def test_calls_are_made_by_whoever_is_free_and_ranks_by_each(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with processes.pool(2, tmp_path / "logs") as workers:
        done = dict(processes.finished(workers, [(f"n{n}", square, n) for n in range(5)]))
        assert done == {"n0": 0, "n1": 1, "n2": 4, "n3": 9, "n4": 16}
        assert sharing.as_ranks(workers, rank) == [("0", "2"), ("1", "2")]
        assert sharing.as_ranks(workers[:1], rank) == [("0", "1")]
        # A rank is one for its call only.
        assert list(processes.finished(workers[:1], [("", os.getenv, "RANK")])) == [("", None)]
        threads = list(processes.finished(workers[:1], [("", os.getenv, "OPENBLAS_NUM_THREADS")]))
        assert threads == [("", "1")]
        with pytest.raises(UserError, match="expected at least 0, found -3"):
            list(processes.finished(workers, [(0, square, -3)]))
        started = [worker._process for worker in workers]
    assert not any(process.is_alive() for process in started)
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["worker-0.log", "worker-1.log"]


def test_processes_end_with_one_that_is_killed(tmp_path):
    code = (
        "import os, pathlib, sys, time\n"
        "from gvvad_jax.store import workers as processes\n"
        "if __name__ == '__main__':\n"
        "    with processes.pool(1, pathlib.Path(sys.argv[1])) as workers:\n"
        "        pids = dict(processes.finished(workers, [(0, os.getpid)]))\n"
        "        workers[0].start(time.sleep, 100)\n"
        "        print(pids[0], flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run(
        [sys.executable, tmp_path / "main.py", tmp_path], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    pid = int(done.stdout)
    for _ in range(200):
        if not pathlib.Path(f"/proc/{pid}/cmdline").exists():
            return
        if not pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
            return  # Dead, and not waited for by anyone yet.
        time.sleep(0.05)
    pytest.fail(f"process {pid} lives on")
