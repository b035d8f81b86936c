"""How long it takes until the first training step is done."""

import dataclasses
import pathlib
import subprocess
import sys

from tools.bench import sparse_store
from tools.bench.step import Case
from tools.bench.workers import Worker, seconds_of


def measure(folder: pathlib.Path, repeats: int) -> dict[str, float]:
    """Times whole processes: --help, and one step of LAP without and with compiled programs.

    `first_step_on_warm_cache_seconds` is that step alone with compiled programs: traced, loaded and
    run. It has the published widths and programs but only two pairs of videos, so arithmetic takes
    next to no time.
    """
    path = sparse_store.write(folder / "store", 8)

    def command(*flags: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "gvvad_jax.train", *flags],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def one_step(number: int) -> float:
        flags = [f"--store={path}", f"--workdir={folder / f'w{number}'}", "--steps=1"]
        flags += ["--batch_size=2", f"--compilation_cache={folder / 'cache'}"]
        return seconds_of(lambda: command(*flags))

    def first_step() -> float:
        arguments = {"side": "ours", "case": dataclasses.asdict(Case("lap", 32, 2))}
        cached = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache-of-step")}
        worker = Worker(arguments, cached)
        seconds = worker.first_seconds()
        worker.close()
        return seconds

    first_step()
    return {
        "help_seconds": min(seconds_of(lambda: command("--help")) for _ in range(repeats)),
        "first_step_on_warm_cache_seconds": min(first_step() for _ in range(repeats)),
        "first_run_seconds": one_step(0),
        "run_on_warm_cache_seconds": min(one_step(1 + number) for number in range(repeats)),
    }
