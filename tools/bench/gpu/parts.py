"""The parts of the GPU report: full sizes on a GPU, the same code at tiny sizes on a CPU."""

import json
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tools.bench import operations
from tools.bench.gpu import hardware, models
from tools.bench.gpu.models import Keep
from tools.bench.sparse_store import CROPS, DIM, TEXT_DIM
from tools.bench.workers import Worker, interleaved

GOLDENS = pathlib.Path(__file__).parents[3] / "tests" / "golden"
ROUNDS = 3
# Seconds of steps of a side in each round, after as many to warm up.
TURN = 0.4


def run(part: str, device: str, seconds: float, out: str, stand_ins: Sequence[str]) -> None:
    """Runs one part and writes its figures to `out`, as far as it gets.

    Args:
      part: its name in report.PARTS.
      device: cuda, or cpu for tiny sizes.
      seconds: how long it may take.
      out: JSON file of the figures.
      stand_ins: packages that are missing and that absent.stand_in replaced.
    """
    end = time.monotonic() + 0.95 * seconds

    def keep(figures: dict[str, Any]) -> None:
        partial_path = pathlib.Path(f"{out}.partial")
        partial_path.write_text(json.dumps(figures))
        partial_path.replace(out)

    name, _, detector = part.partition(" ")
    if name == "machine":
        keep(hardware.machine() | {"missing": list(stand_ins)})
    elif name == "parity":
        parity(keep)
    elif name == "step":
        steps(detector, device, end, keep)
    elif name == "evaluation":
        evaluations(device, end, keep)
    elif name == "seeds":
        seeds(device, end, keep)
    elif name == "clip":
        models.clip(device, end, keep)
    else:
        models.cogvideox(device, keep)


def parity(keep: Keep, goldens: pathlib.Path = GOLDENS) -> None:
    """Relative errors of one training step against the published code's numbers, by golden file.

    Matrix products are float32 throughout (comparison.compare asks for "highest").
    """
    from tools.published import comparison

    paths = sorted(goldens.glob("*.npz"))
    figures: dict[str, Any] = {"bounds": comparison.BOUNDS, "within": {}, "errors": {}}
    with ThreadPoolExecutor(4) as pool:  # Most of the time is compilation.
        compared = pool.map(comparison.compare, map(str, paths))
        for path, errors in zip(paths, compared, strict=True):
            figures["errors"][path.stem] = errors
            figures["within"][path.stem] = all(
                error <= comparison.BOUNDS[kind] for kind, error in errors.items()
            )
            keep(figures)


def steps(detector: str, device: str, end: float, keep: Keep) -> None:
    """Times our step, the twin's and the compiled twin's in turn, in each precision."""
    on_gpu = device == "cuda"
    precisions = ("float32", "tf32", "bfloat16") if on_gpu else ("float32", "bfloat16")
    segments, pairs = (32, 32) if on_gpu else (8, 2)
    workers = {precision: _sides(detector, segments, pairs, device, precision)
               for precision in precisions}  # fmt: skip
    counted = operations.count_step(detector, 2 * pairs, CROPS, segments, DIM, TEXT_DIM)["train"]
    rows: dict[str, Any] = {}
    try:
        for precision, sides in workers.items():
            rows[precision] = _compared(sides, counted, device, precision, end)
            keep({str(segments): rows["float32"] | {"precisions": rows}})
    finally:
        for sides in workers.values():
            for worker in sides.values():
                worker.close()


def _sides(
    detector: str, segments: int, pairs: int, device: str, precision: str
) -> dict[str, Worker]:
    """Starts a process for each side, all of which compile at the same time."""
    case = {"detector": detector, "segments": segments, "pairs": pairs, "precision": precision}
    sides: dict[str, dict[str, Any]] = {
        "ours": {"side": "ours"},
        "torch": {"side": "torch", "device": device},
        "ceiling": {"side": "ceiling", "device": device},
    }
    if device == "cuda":
        sides["torch_compiled"] = sides["torch"] | {"compiled": True}
    return {
        name: Worker(arguments | {"case": case}, {}, "tools.bench.gpu")
        for name, arguments in sides.items()
    }


def _compared(
    workers: Mapping[str, Worker], counted: float, device: str, precision: str, end: float
) -> dict[str, Any]:
    """The row of one precision; sides that fail or aren't ready in time are named in it."""
    row: dict[str, Any] = {"gigaoperations": counted / 1e9}
    ready, row["skipped"] = _ready(workers, end)
    if "ours" not in ready:
        return row
    peak = 1 / ready.pop("ceiling").seconds(0.0, _left(end)) if "ceiling" in ready else None
    turn = TURN if device == "cuda" else 0.0
    turns = {name: partial(worker.seconds, turn, _left(end)) for name, worker in ready.items()}
    times = interleaved(turns, ROUNDS)
    ours = times["ours"]
    row["seconds"] = statistics.median(ours)
    row["steps_a_second"] = 1 / row["seconds"]
    rates = {"matmul": peak, "rated": hardware.rated_operations(precision)}
    for key, rate in rates.items():
        row[f"share_of_{key}_peak"] = counted / row["seconds"] / rate if rate else None
    for name, values in times.items():
        if name != "ours":
            suffix = name.removeprefix("torch")
            ratios = [other / own for own, other in zip(ours, values, strict=True)]
            row[f"torch{suffix}_seconds"] = statistics.median(values)
            row |= {f"ratio{suffix}": statistics.median(ratios), f"ratios{suffix}": ratios}
    row["device_bytes"] = {name: worker.device_bytes(_left(end)) for name, worker in ready.items()}
    return row


def _ready(workers: Mapping[str, Worker], end: float) -> tuple[dict[str, Worker], dict[str, str]]:
    """The workers that are ready in time, and why the others aren't."""
    ready, skipped = {}, {}
    for name, worker in workers.items():
        try:
            worker.first_seconds(_left(end))
            ready[name] = worker
        except (RuntimeError, TimeoutError) as error:
            skipped[name] = str(error)
    return ready, skipped


def _left(end: float) -> float:
    return max(0.1, end - time.monotonic())


def evaluations(device: str, end: float, keep: Keep) -> None:
    """Times scoring and measuring a part of a test set of UCF-Crime's size, in turn."""
    on_gpu = device == "cuda"
    share = 0.2 if on_gpu else 0.01
    workers = {
        f"{library} {precision}": Worker(
            {"side": "evaluation", "library": library, "share": share, "device": device,
             "precision": precision},
            {},
            "tools.bench.gpu",
        )
        for precision in (("float32", "tf32") if on_gpu else ("float32",))
        for library in ("ours", "torch")
    }  # fmt: skip
    ready, skipped = _ready(workers, end)
    figures: dict[str, Any] = {"share_of_test_set": share, "skipped": skipped}
    keep(figures)
    first = {name: worker.first_seconds() for name, worker in ready.items()}
    turns = {name: partial(worker.seconds, 0.0, _left(end)) for name, worker in ready.items()}
    times = interleaved(turns, ROUNDS)
    for name, values in times.items():
        library, _, precision = name.partition(" ")
        row = figures.setdefault(precision, {})
        row |= {f"{library}_seconds": statistics.median(values),
                f"{library}_first_seconds": first[name]}  # fmt: skip
        if library == "ours" and (other := times.get(f"torch {precision}")):
            ratios = [b / a for a, b in zip(values, other, strict=True)]
            row |= {"ratio": statistics.median(ratios), "ratios": ratios}
    keep(figures)
    for worker in workers.values():
        worker.close()


def seeds(device: str, end: float, keep: Keep) -> None:
    """Times steps of several seeds of LAP in one program, against one seed."""
    counts, size = ((1, 2, 4, 8), (32, 32)) if device == "cuda" else ((1, 2), (8, 2))
    case = {"detector": "lap", "segments": size[0], "pairs": size[1]}
    workers = {
        str(count): Worker({"side": "seeds", "case": case, "count": count}, {}, "tools.bench.gpu")
        for count in counts
    }
    ready, skipped = _ready(workers, end)
    turn = TURN if device == "cuda" else 0.0
    turns = {name: partial(worker.seconds, turn, _left(end)) for name, worker in ready.items()}
    times = interleaved(turns, ROUNDS)
    figures: dict[str, Any] = {"detector": "lap", "segments": size[0], "skipped": skipped}
    for name, values in times.items():
        count, seconds = int(name), statistics.median(values)
        gains = [count * one / own for one, own in zip(times.get("1", values), values, strict=True)]
        figures[name] = {
            "seconds": seconds,
            "runs_of_1000_steps_an_hour": count * 3.6 / seconds,
            "times_one_seed": statistics.median(gains) if "1" in times else None,
            "device_bytes": ready[name].device_bytes(_left(end)),
        }
    keep(figures)
    for worker in workers.values():
        worker.close()
