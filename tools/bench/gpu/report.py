"""Runs the parts of the GPU report, each in a process of its own and for a limited time.

A part that fails, hangs or isn't possible loses nothing of the others: the file is written after
each. Only the standard library is imported here.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

# The most seconds that each part gets. The sum may exceed the report's own limit: most need less,
# and the first ones count most.
PARTS = {
    "machine": 60.0,
    "parity": 90.0,
    "step lap": 120.0,
    "step rtfm": 90.0,
    "step ur_dmu": 90.0,
    "evaluation": 90.0,
    "clip": 60.0,
    "seeds": 60.0,
    "cogvideox": 60.0,
}
SECONDS = 480.0
# JAX would take three quarters of the GPU's memory at its start, and PyTorch's side would fail.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
# Less is no use to any part.
LEAST_SECONDS = 5.0


def run(
    path: str,
    seconds: float = SECONDS,
    parts: Mapping[str, float] = PARTS,
    module: str = "tools.bench.gpu",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs the report.

    Args:
      path: JSON file to write, after each part; empty for none.
      seconds: limit of the whole report.
      parts: the most seconds of each part, in their order.
      module: the module that runs a part: `-m MODULE {"part", "device", "seconds", "out"}`.
      say: is given a line about each part.

    Returns:
      {"parts": {name: {"seconds", "skipped": why, if it is}}} and the figures of each part, "step
      lap" under {"step": {"lap": ...}}.
    """
    end = time.monotonic() + seconds
    report: dict[str, Any] = {"parts": {}}
    for name, most in parts.items():
        started = time.monotonic()
        left = min(most, end - started)
        if left < LEAST_SECONDS:
            figures: dict[str, Any] = {"skipped": f"no time left of {seconds:.0f} s"}
        else:
            device = report.get("machine", {}).get("device", "cpu")
            figures = _in_a_process(name, device, left, module)
        outcome = {"seconds": round(time.monotonic() - started, 1)}
        if "skipped" in figures:
            outcome["skipped"] = figures.pop("skipped")
        report["parts"][name] = outcome
        first, _, second = name.partition(" ")
        if figures and second:
            report.setdefault(first, {})[second] = figures
        elif figures:
            report[first] = figures
        say(json.dumps({name: outcome | {"figures": figures}}))
        if path:
            _write(pathlib.Path(path), report)
    return report


def _in_a_process(name: str, device: str, seconds: float, module: str) -> dict[str, Any]:
    """The figures that a part has kept when it ends or its time is over."""
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        out, log = pathlib.Path(folder, "figures.json"), pathlib.Path(folder, "log.txt")
        arguments = {"part": name, "device": device, "seconds": seconds, "out": str(out)}
        with log.open("w") as errors:
            # A session of its own, so that a part that hangs ends with the processes it started.
            process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(arguments)],
                env=os.environ | ENVIRONMENT,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
            try:
                why = "" if process.wait(seconds) == 0 else _last_line(log)
            except subprocess.TimeoutExpired:
                why = f"not done within its {seconds:.0f} s"
            finally:
                _end(process)
        figures: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    return figures | {"skipped": why} if why else figures


def _last_line(log: pathlib.Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "failed without a message"


def _end(process: subprocess.Popen) -> None:
    """Ends a part and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _write(path: pathlib.Path, report: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.replace(path)
