"""How long a whole run of the published schedule takes, computed from measured parts.

The published code takes 1,000 steps and evaluates the 290 test videos every 5 steps. Ours does as
many steps, validates every 50 steps on a tenth of UCF-Crime's training videos, and at the end
calibrates two checkpoints and measures them on the test videos. The fast recipe is that with
--train_crops=1 and --score_crops=mean. Reading features is left out on all sides.
"""

import dataclasses
import functools
import statistics
from typing import Any

from tools.bench import evaluation
from tools.bench.sparse_store import UCF_CRIME_SNIPPETS, UCF_CRIME_VIDEOS
from tools.bench.step import JAX_ENVIRONMENT, Case
from tools.bench.workers import Worker, interleaved

STEPS, PUBLISHED_EVERY = 1000, 5


def evaluations() -> dict[str, float]:
    """Counts the evaluations of a run, each as many as a test set of UCF-Crime's takes."""
    from gvvad_jax.config import TrainConfig

    config = TrainConfig()
    validated = config.validation_share * UCF_CRIME_VIDEOS * UCF_CRIME_SNIPPETS
    # Two checkpoints, the last and the best one: the temperature takes all validation videos, the
    # threshold the normal ones, about half.
    validations = STEPS / config.validate_every + 2 * 1.5
    return {
        "published": STEPS / PUBLISHED_EVERY,
        "ours": validations * validated / evaluation.UCF_TEST_SNIPPETS + 2,
    }


def measure(case: Case, share: float, repeats: int, *, turn: float, device: str) -> dict[str, Any]:
    """Times the steps and the evaluations of each side in turn, and adds them up.

    Args:
      case: what to train on.
      share: share of the test videos to evaluate; seconds are scaled up to all.
      repeats: number of rounds.
      turn: seconds of steps of each side in a round, after as many for warming up.
      device: PyTorch device.

    Returns:
      For each of `published`, `default` and `fast`: {"seconds", "step_seconds",
      "evaluation_seconds", "evaluations", "compilation_seconds"}; for the last two also "ratio",
      the median over rounds, and "ratios". `evaluation` has the ratios of evaluation alone.
    """
    steps, compilation = _steps(case, repeats, turn, device)
    evaluated = evaluation.measure(share, repeats, device=device)
    scale = evaluation.UCF_TEST_SNIPPETS / evaluated["snippets"]
    compilation["default"] += evaluated["first_seconds"] - evaluated["seconds"]
    compilation["fast"] += evaluated["first_seconds"] - evaluated["seconds"]
    sides = {"published": "torch", "default": "ours", "fast": "mean"}
    counts, totals = evaluations(), {}
    figures: dict[str, Any] = {}
    for name, side in sides.items():
        count = counts["published" if name == "published" else "ours"]
        seconds = [scale * value for value in evaluated["rounds"][side]]
        totals[name] = [
            STEPS * step + count * whole + compilation[name]
            for step, whole in zip(steps[name], seconds, strict=True)
        ]
        figures[name] = {
            "seconds": statistics.median(totals[name]),
            "step_seconds": statistics.median(steps[name]),
            "evaluation_seconds": statistics.median(seconds),
            "evaluations": count,
            "compilation_seconds": compilation[name],
        }
    for name in ("default", "fast"):
        ratios = [a / b for a, b in zip(totals["published"], totals[name], strict=True)]
        figures[name] |= {"ratio": statistics.median(ratios), "ratios": ratios}
    kept = ("videos", "ratio", "ratios", "mean_crop_ratio")
    return figures | {"evaluation": {key: evaluated[key] for key in kept}}


def _steps(
    case: Case, repeats: int, turn: float, device: str
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of a step by side and round, and of compiling it by side."""
    case_fields = dataclasses.asdict(case)
    workers = {
        "published": Worker({"side": "torch", "case": case_fields, "device": device}, {}),
        "default": Worker({"side": "ours", "case": case_fields}, JAX_ENVIRONMENT),
        "fast": Worker({"side": "ours", "case": case_fields | {"train_crops": 1}}, JAX_ENVIRONMENT),
    }
    for worker in workers.values():
        worker.first_seconds()
    turns = {name: functools.partial(worker.seconds, turn) for name, worker in workers.items()}
    steps = interleaved(turns, repeats)
    compilation = {"published": 0.0}
    for name in ("default", "fast"):
        compilation[name] = max(0.0, workers[name].first_seconds() - statistics.median(steps[name]))
    for worker in workers.values():
        worker.close()
    return steps, compilation
