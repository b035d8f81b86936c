"""The sides of the report's comparisons, each for a process of its own."""

import dataclasses
from typing import Any

from tools.bench import evaluation, step
from tools.bench.sparse_store import DIM, TEXT_DIM
from tools.bench.workers import seconds_of, serve


class Evaluation:
    """Scores and measures a part of a test set like UCF-Crime's.

    Args:
      library: jax (ours, in buckets of lengths) or torch (the twin, one video at a time).
      share: share of the test videos.
      device: PyTorch device of the twin.
      precision: float32, or tf32 for products in TF32.
    """

    def __init__(self, library: str, share: float, device: str, precision: str):
        import torch

        for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
            backend.allow_tf32 = precision == "tf32"
        lengths_V = evaluation.lengths(evaluation.UCF_TEST_VIDEOS, evaluation.UCF_TEST_SNIPPETS)
        lengths_V = lengths_V[: max(2, round(share * len(lengths_V)))]
        features, labels = evaluation.test_set(lengths_V)
        if library == "torch":
            twin = evaluation.Twin(device)
            self._run = lambda: twin.evaluate(features, labels)
        else:
            model = evaluation.Twin("cpu").as_jax()
            config = dataclasses.replace(
                model.config, matmul_precision="default" if precision == "tf32" else "highest"
            )
            model = evaluation.with_config(model, config)
            self._run = lambda: evaluation.by_buckets(model, features, labels)

    def seconds(self) -> float:
        return seconds_of(self._run)

    def device_bytes(self) -> int | None:
        return None


class Seeds(step.JaxStep):
    """A step of several seeds in one program; the videos are on the device once."""

    def __init__(self, case: step.Case, count: int):
        from gvvad_jax import together
        from gvvad_jax.step import init_state

        super().__init__(case)
        configs = [dataclasses.replace(self.config, seed=seed) for seed in range(count)]
        self._states = together.stacked([init_state(c, DIM, TEXT_DIM) for c in configs])
        self._numbers = together.stacked([config.numbers for config in configs])
        self._batches = together.stacked([self.batch] * count)
        self._step = together.compiled_step(self.config.program, True)

    def __call__(self) -> None:
        self._states, metrics = self._step(self._states, self.data, self._batches, self._numbers)
        self._jax.block_until_ready(metrics)


def run(side: str, **arguments: Any) -> None:
    """Serves a side; see workers.serve. It is evaluation, seeds, or one of step.SIDES."""
    if side == "evaluation":
        serve(Evaluation(**arguments))
    else:
        case = step.Case(**arguments.pop("case"))
        serve((step.SIDES | {"seeds": Seeds})[side](case, **arguments))
