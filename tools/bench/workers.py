"""Processes that time one side of a comparison each, and take turns."""

import json
import os
import pathlib
import queue
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Side(Protocol):
    """One side of a comparison."""

    def seconds(self) -> float:
        """Does what is measured once, and returns how long that took."""
        ...

    def device_bytes(self) -> int | None:
        """Returns the peak memory on a GPU; None without one."""
        ...


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall time of one call, which has to wait for its result."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Calls the sides, which return their times, in turn; every other round in reverse."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in sorted(sides, reverse=bool(number % 2)):
            times[name].append(sides[name]())
    return times


def peak_bytes(process: int | str = "self") -> int:
    """Peak memory of a running process in bytes (Linux).

    rusage would not do: a child's peak starts at what its parent had.
    """
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))


class Worker:
    """A process that runs one side and takes steps on request.

    The sides have processes of their own so that each runs as it does for its users; otherwise
    one side's settings of the memory allocator would affect the other.

    Args:
      arguments: arguments of `module`, as JSON.
      environment: additional environment variables.
      module: the module to run, which ends with `serve`.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str],
        module: str = "tools.bench.step",
    ):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(arguments)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._answers: queue.Queue[float | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._first: float | None = None

    def _read(self) -> None:
        for line in self._process.stdout:
            word, _, value = line.partition(" ")
            if word == "answer":
                self._answers.put(float(value))
        self._answers.put(None)

    def first_seconds(self, timeout: float | None = None) -> float:
        """Waits until the side is ready; returns how long its first step took."""
        if self._first is None:
            self._first = self._answer(timeout)
        return self._first

    def seconds(self, turn: float, timeout: float | None = None) -> float:
        """Median time of the steps in `turn` seconds, after `turn` seconds of warming up."""
        return self._ask(str(turn), timeout)

    def device_bytes(self, timeout: float | None = None) -> int | None:
        """Peak memory on the GPU; None where there is none."""
        value = self._ask("memory", timeout)
        return None if value < 0 else int(value)

    def _ask(self, line: str, timeout: float | None) -> float:
        self.first_seconds(timeout)
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # The answer is then that it ended.
            pass
        return self._answer(timeout)

    def _answer(self, timeout: float | None) -> float:
        """Raises RuntimeError if the process has ended, TimeoutError if there is no answer."""
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no answer within {timeout:.0f} s") from None
        if answer is None:
            self._errors.seek(0)
            lines = [line.strip() for line in self._errors if line.strip()]
            raise RuntimeError(
                f"ended with status {self._process.wait()}: {lines[-1] if lines else 'no message'}"
            )
        return answer

    def close(self) -> int:
        """Ends the process; returns its peak memory in bytes, 0 if it had ended."""
        running = self._process.poll() is None
        peak = peak_bytes(self._process.pid) if running else 0
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        return peak


def serve(side: Side) -> None:
    """Times one side whenever a line of standard input asks for it, with its seconds of a turn."""
    print("answer", side.seconds(), flush=True)
    for line in sys.stdin:
        if line == "memory\n":
            peak = side.device_bytes()
            print("answer", -1 if peak is None else peak, flush=True)
            continue
        # In training, steps follow each other. While a process waits for its turn, a virtual
        # machine may take its free memory away, so steps right after a pause don't count.
        _times(side, float(line))
        print("answer", statistics.median(_times(side, float(line))), flush=True)


def _times(side: Side, turn: float) -> list[float]:
    """Times of steps: one, and more until `turn` seconds have passed."""
    end, times = time.perf_counter() + turn, []
    while not times or time.perf_counter() < end:
        times.append(side.seconds())
    return times
