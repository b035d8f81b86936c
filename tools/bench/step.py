"""Times a training step against plain PyTorch and the machine's matrix products.

All sides get the published batch (pairs of videos, ten crops, 768 visual and 768 text features),
random, in memory, float32, with dropout.
"""

import dataclasses
import functools
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.bench import operations
from tools.bench.sparse_store import CROPS, DIM, TEXT_DIM
from tools.bench.workers import Worker, interleaved, seconds_of, serve

PROMPTS = 60
# Setting that docs/performance.md recommends on CPUs. Keeping freed memory as well (mmap_max=0) was
# faster by a few percent, but at times the heap grew to several times a step's memory.
JAX_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
      detector: name of the detector.
      segments: segments of a video.
      pairs: pairs of videos in a batch.
      train_crops: crops of our step, as of TrainConfig; 0 for all.
      precision: float32 (with float32 products), tf32 (float32 with products in TF32) or bfloat16.
    """

    detector: str
    segments: int
    pairs: int
    train_crops: int = 0
    precision: str = "float32"


class JaxStep:
    """A training step of our detector; calling it takes a step and waits for its loss."""

    def __init__(self, case: Case):
        import jax

        from gvvad_jax import parallel
        from gvvad_jax import step as step_
        from gvvad_jax.batches import Batch
        from gvvad_jax.config import TrainConfig

        pairs, segments = case.pairs, case.segments
        config = TrainConfig(
            detector=case.detector, segments=segments, batch_size=pairs,
            train_crops=case.train_crops, precision=case.precision.replace("tf32", "float32"),
            matmul_precision="default" if case.precision == "tf32" else "highest",
        )  # fmt: skip
        rng = np.random.default_rng(0)
        visual = rng.standard_normal((2 * pairs, CROPS, segments, DIM), np.float32)
        self.config, self._jax = config, jax
        self.runner = parallel.Runner(config, step_.init_state(config, DIM, TEXT_DIM))
        self.data = step_.TrainingData(
            visual_VxNxTxD=self.runner.on_each(visual),
            text_VxTxE=self.runner.on_each(visual[:, 0]) if config.uses_text else None,
            synthetic_V=self.runner.on_each(np.zeros(2 * pairs, np.float32)),
            bank_KxE=self.runner.on_each(visual[:PROMPTS, 0, 0]) if config.uses_bank else None,
        )
        places_Bx2 = np.arange(2 * pairs, dtype=np.int32).reshape(-1, 2)
        self.batch = Batch(places_Bx2, np.arange(pairs, dtype=np.int32))

    def seconds(self) -> float:
        return seconds_of(self)

    def device_bytes(self) -> int | None:
        return (self._jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    def __call__(self) -> None:
        self._jax.block_until_ready(self.runner.step(self.data, self.batch))


class TorchStep:
    """A training step of the PyTorch twin, likewise.

    Args:
      case: what to train on.
      device: PyTorch device.
      text_once: run the text stream once a video, as our detector does, instead of once a crop.
      compiled: use torch.compile.
    """

    def __init__(
        self,
        case: Case,
        *,
        device: str = "cpu",
        text_once: bool = False,
        compiled: bool = False,
    ):
        import torch

        from tools.published import twin_losses, twins

        torch.manual_seed(0)
        for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
            backend.allow_tf32 = case.precision == "tf32"
        detector, segments, pairs = case.detector, case.segments, case.pairs
        has_text = detector in ("tevad", "lap")
        if detector == "ur_dmu":
            model = twins.DualMemory(DIM)
        elif detector == "mil_rank":
            model = twins.Ranking(DIM)
        else:
            model = twins.MultipleInstance(DIM, TEXT_DIM * has_text)
            model.text_once = text_once
        self._torch, self._device = torch, device
        self._model = model.to(device)
        if case.precision == "bfloat16":
            model.forward = _in_bfloat16(model.forward, device)
        self._adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=5e-3)
        batch = {}
        for half in twins.HALVES:
            visual = torch.randn(pairs, CROPS, segments, DIM)
            batch[f"visual_{half}"] = visual
            if has_text:
                once = torch.randn(pairs, 1, segments, TEXT_DIM)
                batch[f"text_{half}"] = once.repeat(1, CROPS, 1, 1)
            batch[f"source_{half}"] = torch.zeros(pairs)
        if detector == "lap":
            batch |= {"bank": torch.randn(PROMPTS, TEXT_DIM), "lambda": torch.tensor(0.5)}
        self._batch = {name: value.to(device) for name, value in batch.items()}
        train_step = twin_losses.train_step
        self._step = torch.compile(train_step) if compiled else train_step

    def seconds(self) -> float:
        return seconds_of(self)

    def device_bytes(self) -> int | None:
        return None if self._device == "cpu" else self._torch.cuda.max_memory_allocated()

    def __call__(self) -> None:
        self._step(self._model, self._adam, self._batch)
        if self._device != "cpu":
            self._torch.cuda.synchronize()


def _in_bfloat16(forward: Callable[[Any], Any], device: str) -> Callable[[Any], Any]:
    """The forward pass as users of mixed precision run it; losses stay in float32."""
    import torch

    def run(batch: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            outputs = forward(batch)
        return {name: value.float() for name, value in outputs.items()}

    return run


class Ceiling:
    """Matrix products of the step's shapes, by XLA and, on the CPU, by PyTorch."""

    def __init__(self, case: Case, *, device: str):
        self._rows, self._device = 2 * case.pairs * CROPS * case.segments, device
        self._precision = case.precision

    def seconds(self) -> float:
        """Time of one operation in the fastest product, with the better of two trials."""
        # The convolutions of the visual stream, the head's first layer, and their gradients.
        inner = [(3 * DIM, DIM), (3 * DIM, DIM // 4), (DIM + TEXT_DIM, 512)]
        rows = self._rows
        shapes = [shape for m, n in inner for shape in ((rows, m, n), (rows, n, m), (m, rows, n))]
        libraries = [self._by_xla] if self._device != "cpu" else [self._by_xla, self._by_torch]
        return min(
            seconds(m, k, n) / (2.0 * m * k * n) for seconds in libraries for m, k, n in shapes
        )

    def _by_xla(self, m: int, k: int, n: int) -> float:
        import jax
        import jax.numpy as jnp

        dtype = jnp.bfloat16 if self._precision == "bfloat16" else jnp.float32
        # GPUs multiply zeros and ones faster than numbers.
        numbers = jnp.asarray(np.random.default_rng(0).standard_normal(8191), dtype)
        left, right = jnp.resize(numbers, (m, k)), jnp.resize(numbers, (k, n))
        precision = "default" if self._precision == "tf32" else "highest"
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        return self._best(lambda: jax.block_until_ready(product(left, right)))

    def _by_torch(self, m: int, k: int, n: int) -> float:
        import torch

        left, right = torch.ones(m, k), torch.ones(k, n)
        return self._best(lambda: left @ right)

    def device_bytes(self) -> int | None:
        return None

    def _best(self, run: Callable[[], Any]) -> float:
        return min(seconds_of(run) for _ in range(2))


SIDES = {"ours": JaxStep, "torch": TorchStep, "ceiling": Ceiling}


def main(argument: str) -> None:
    """The worker process of one side; see workers.serve."""
    arguments = json.loads(argument)
    case = Case(**arguments.pop("case"))
    serve(SIDES[arguments.pop("side")](case, **arguments))


def measure(
    case: Case, repeats: int, *, turn: float, device: str, compiled: bool
) -> dict[str, Any]:
    """Times our step and the other sides in turn.

    Args:
      case: what to train on.
      repeats: number of rounds.
      turn: seconds of steps of each side in a round, after as many for warming up.
      device: PyTorch device.
      compiled: time torch.compile too.

    Returns:
      A row of the table; seconds, ratios and shares are medians over the rounds.
    """
    workers = _workers(case, device, compiled)
    turns = {name: functools.partial(worker.seconds, turn) for name, worker in workers.items()}
    times = interleaved(turns, repeats)
    ceilings = [1.0 / seconds for seconds in times.pop("ceiling")]
    steps = times.pop("ours")
    counted = operations.count_step(
        case.detector, 2 * case.pairs, CROPS, case.segments, DIM, TEXT_DIM
    )["train"]
    shares = [counted / step / rate for step, rate in zip(steps, ceilings, strict=True)]
    row = {
        "seconds": statistics.median(steps),
        "first_seconds": workers["ours"].first_seconds(),
        "gigaoperations": counted / 1e9,
        "matmul_gigaoperations_a_second": statistics.median(ceilings) / 1e9,
        "share_of_matmul_peak": statistics.median(shares),
        "shares_of_matmul_peak": shares,
    }
    for name, values in times.items():
        ratios = [other / step for step, other in zip(steps, values, strict=True)]
        suffix = name.removeprefix("torch")
        row[f"torch{suffix}_seconds"] = statistics.median(values)
        row[f"ratio{suffix}"] = statistics.median(ratios)
        row[f"ratios{suffix}"] = ratios
    peaks = {name: worker.close() for name, worker in workers.items()}
    row["peak_bytes"] = {name: peak for name, peak in peaks.items() if name != "ceiling"}
    return row


def _workers(case: Case, device: str, compiled: bool) -> dict[str, Worker]:
    """A process for each side, by name."""
    ours = {"side": "ours", "case": dataclasses.asdict(case)}
    torch = ours | {"side": "torch", "device": device}
    # The ceiling is measured in every round, because the machine's speed varies.
    ceiling = ours | {"side": "ceiling", "device": device}
    workers = {"ours": Worker(ours, JAX_ENVIRONMENT), "ceiling": Worker(ceiling, JAX_ENVIRONMENT)}
    workers["torch"] = Worker(torch, {})
    if case.detector in ("tevad", "lap"):
        workers["torch_text_once"] = Worker(torch | {"text_once": True}, {})
    if compiled:
        workers["torch_compiled"] = Worker(torch | {"compiled": True}, {})
    for worker in workers.values():
        worker.first_seconds()
    return workers


if __name__ == "__main__":
    main(sys.argv[1])
