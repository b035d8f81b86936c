"""Trains several runs of one compiled program together: seeds, or other values of its numbers.

The training step is vmapped over the runs' states, batches and numbers (config.NUMBERS). The device
holds the union of the runs' training videos once, or once a run where they are standardised
differently; beyond --device_gigabytes each run gathers its own batch. Everything else is each
run's own: folder, log, validation, checkpoints, result. So a run equals one that trains alone up to
the order of sums, and may go on alone, or together.

This is for GPUs and TPUs that one run leaves idle. On CPUs a vmapped convolution is slow.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from gvvad_jax import segments, training
from gvvad_jax.batches import Batch
from gvvad_jax.command import Interrupted, UserError, raise_if_interrupted
from gvvad_jax.config import TrainConfig
from gvvad_jax.parallel import ReadRows
from gvvad_jax.splits import Member
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.step import PyTree, TrainingData, TrainState, make_train_step

Outcome = training.Result | Interrupted


def fit(configs: Sequence[TrainConfig]) -> list[Outcome]:
    """Trains runs in one program; the same call again resumes runs that were stopped.

    Args:
      configs: the runs, which differ in seed, folder, data of the same shapes, or numbers alone.

    Returns:
      What each run reached, or why it ended early; the others went on.

    Raises:
      UserError: see training.fit; or the runs are of several programs or devices.
    """
    with contextlib.ExitStack() as stack:
        folders = [training.prepared(config) for config in configs]
        runs = [
            _Member(training.Run(config, folder, stack))
            for config, folder in zip(configs, folders, strict=True)
        ]
        program = _require_one_program(runs)
        data = _Data(runs, stack)
        for member in runs:
            member.run.begin()
        steps, pace = configs[0].steps, training.Pace()
        with tqdm.tqdm(total=steps, desc="train", unit="step", mininterval=1.0) as progress:
            while active := [each for each in runs if each.goes_on(steps)]:
                # Runs that were stopped at different steps go on together once they are level.
                done = min(each.run.done for each in active)
                level = [each for each in active if each.run.done == done]
                ahead = [each.run.done for each in active if each.run.done > done]
                progress.update(done - progress.n)
                _advance(program, level, data, min(ahead, default=steps), progress, pace)
        return [each.finish() for each in runs]


class _Member:
    """One of the runs.

    Attributes:
      run: the run.
      state: its state at `run.done`.
      ended: why it ended early; None if it didn't.
    """

    def __init__(self, run: training.Run):
        self.run, self.state = run, run.state
        self.ended: Interrupted | None = None

    def goes_on(self, steps: int) -> bool:
        return self.run.done < steps and not self.run.stopped and self.ended is None

    def after(self, metrics: Mapping[str, Any], state: Callable[[], TrainState]) -> None:
        """Does what a step calls for; keeps the state of a run that ends."""
        try:
            self.run.after(metrics, state)
        except Interrupted as error:
            self.ended = error
        if self.run.stopped:
            self.state = state()

    def finish(self) -> Outcome:
        return self.ended or self.run.finish(self.state)


def _require_one_program(runs: Sequence[_Member]) -> TrainConfig:
    """Returns the runs' program; raises UserError if there are several."""
    configs = [each.run.trained for each in runs]
    if any(config.parallel != "single" or config.processes != "one" for config in configs):
        raise UserError(
            "--parallel: expected single for several runs in one program, found another; leave it "
            "out, or give --seeds_at_once=1"
        )
    first = configs[0]
    for config in configs[1:]:
        same = config.program == first.program and config.batch_size == first.batch_size
        if not same or config.steps != first.steps:
            raise UserError(
                f"{config.workdir}: expected a run of the same program, batch size and steps as "
                f"{first.workdir}, found others; train them apart: --seeds_at_once=1"
            )
    return first.program


class _Data:
    """The training videos of all runs: on the device if they fit, else those of one batch.

    Args:
      runs: the runs.
      stack: closes what reads ahead.

    Attributes:
      is_shared: whether the device holds videos that are the same for all runs.
    """

    def __init__(self, runs: Sequence[_Member], stack: contextlib.ExitStack):
        self.is_shared, self._feeds = False, dict[_Member, segments.Ahead]()
        self._numbers = {each: number for number, each in enumerate(runs)}
        _give_each_a_stream(runs)
        if runs[0].run.config.causal_window or not self._hold(runs):
            for each in runs:
                feed = each.run.ahead(_Device())
                self._feeds[each] = stack.enter_context(contextlib.closing(feed))

    def _hold(self, runs: Sequence[_Member]) -> bool:
        """Holds the union of the runs' videos on the device; returns whether it fits."""
        union: dict[tuple[str, str], Member] = {}
        keys = []
        for each in runs:
            keys.append([(str(m.store.path), m.video.id) for m in each.run.inputs.members])
            union.update(zip(keys[-1], each.run.inputs.members, strict=True))
        places = {key: place for place, key in enumerate(union)}
        # By run: where its videos are in the union.
        self._places = {
            each: np.array([places[key] for key in own], np.int32)
            for each, own in zip(runs, keys, strict=True)
        }
        standards = [each.run.inputs.standards for each in runs]
        self.is_shared = all(_same(standards[0], other) for other in standards[1:])
        members, config = list(union.values()), runs[0].run.config
        kept = [
            segments.Segments(members, each, config)
            for each in (standards[:1] if self.is_shared else standards)
        ]
        if sum(each.num_bytes for each in kept) > config.device_gigabytes * 1e9:
            self.is_shared = False
            return False
        synthetic_V = np.array([member.row.source == "synthetic" for member in members])
        fixed = segments.Fixed(synthetic_V, runs[0].run.inputs.bank_KxE)
        videos_V = np.arange(len(members))
        arrays = [
            segments.training_data(
                each.shapes, each.at(0, videos_V), fixed, videos_V, _Device(), each.padded_rows
            )
            for each in kept
        ]
        self._data = arrays[0] if self.is_shared else stacked(arrays)
        return True

    def at(self, runs: Sequence[_Member], step: int) -> tuple[TrainingData, Batch]:
        """Returns the videos and the batches of step number `step` of some of the runs.

        All arrays have a leading axis of runs, but those of videos if they are shared.
        """
        if self._feeds:
            data, batches = zip(*[self._feeds[each].at(step) for each in runs], strict=True)
            return stacked(data), stacked(batches)
        batch = stacked([self._batch(each, step) for each in runs])
        if self.is_shared or len(runs) == len(self._numbers):
            return self._data, batch
        numbers = np.array([self._numbers[each] for each in runs])
        return jax.tree.map(lambda array: array[numbers], self._data), batch

    def _batch(self, member: _Member, step: int) -> Batch:
        """Returns a run's batch in rows of the union."""
        batch, places_V = member.run.inputs.drawn.at(step), self._places[member]
        return batch._replace(
            **{
                name: places_V[videos]
                for name, videos in batch._asdict().items()
                if name in ("videos_Bx2", "partners_Bx2", "held_out_Bx2") and videos is not None
            }
        )


def _give_each_a_stream(runs: Sequence[_Member]) -> None:
    """Gives all runs a stream of text where some have one, so that their arrays have one form.

    That of a run without generated videos, which auto may have left out, is its text as it is.
    """
    paths = {path for each in runs for path in each.run.inputs.standards.text}
    for run in [each.run for each in runs if not each.run.inputs.standards.text]:
        as_stored = dict.fromkeys(paths, Standardisation())
        with_stream = dataclasses.replace(run.inputs.standards, text=as_stored)
        run.inputs = run.inputs._replace(standards=with_stream)


class _Device:
    """Places arrays on the one device, as parallel.Runner does."""

    def on_each(self, tree: PyTree) -> PyTree:
        return jax.tree.map(jnp.asarray, tree)

    def by_row(self, shape: tuple[int, ...], read_rows: ReadRows, at_least: int = 0) -> jax.Array:
        rows_Rx = read_rows(0, shape[0])
        padding = [(0, max(0, at_least - len(rows_Rx))), *[(0, 0)] * (rows_Rx.ndim - 1)]
        return jnp.asarray(np.pad(rows_Rx, padding))


def _same(left: Any, right: Any) -> bool:
    """Returns whether two standardise all videos alike."""
    return all(
        {path: each.to_json() for path, each in mine.items()}
        == {path: each.to_json() for path, each in other.items()}
        for mine, other in (
            ({"": left.real}, {"": right.real}),
            (left.generated, right.generated),
            (left.text, right.text),
        )
    )


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Stacks the arrays of trees of one form on a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def unstacked(tree: PyTree, place: int) -> PyTree:
    """Returns one of the trees that were stacked."""
    return jax.tree.map(lambda leaf: leaf[place], tree)


@functools.lru_cache(maxsize=8)
def compiled_step(program: TrainConfig, is_shared: bool) -> Callable[..., Any]:
    """Compiles the step of several runs; states, batches and numbers have a leading axis of runs.

    Args:
      program: TrainConfig.program of the runs.
      is_shared: whether the training data is the same for all; else it has that axis, too.
    """
    step = jax.vmap(make_train_step(program), in_axes=(0, None if is_shared else 0, 0, 0))
    return jax.jit(step, donate_argnums=0)


def _advance(
    program: TrainConfig,
    runs: Sequence[_Member],
    data: _Data,
    until: int,
    progress: tqdm.tqdm,
    pace: training.Pace,
) -> None:
    """Trains runs that have done the same number of steps, until all have ended or done `until`."""
    step_of_all = compiled_step(program, data.is_shared)
    states = stacked([each.state for each in runs])
    numbers = stacked([each.run.trained.numbers for each in runs])
    for step in range(runs[0].run.done, until):
        going = [(place, each) for place, each in enumerate(runs) if each.goes_on(until)]
        if not going:
            break
        raise_if_interrupted()
        states, metrics = step_of_all(states, *data.at(runs, step), numbers)
        fetched = _Fetched(metrics)
        for place, each in going:
            each.after(_Own(fetched, place), functools.partial(unstacked, states, place))
        progress.update()
        if told := pace.told(runs[0].run.config.steps - step - 1):
            progress.write(told, file=sys.stderr)
        for each in runs:
            if each.ended is not None and each in [member for _, member in going]:
                progress.write(f"{each.run.config.workdir}: {each.ended}", file=sys.stderr)
    for place, each in enumerate(runs):
        if each.run.done == until and each.ended is None and not each.run.stopped:
            each.state = unstacked(states, place)


class _Fetched:
    """The metrics of all runs, fetched from the device once, when they are first needed."""

    def __init__(self, metrics: Mapping[str, jax.Array]):
        self._metrics = metrics

    @functools.cached_property
    def values(self) -> Mapping[str, np.ndarray]:
        values: Mapping[str, np.ndarray] = jax.device_get(self._metrics)
        return values


class _Own(Mapping[str, Any]):
    """One run's part of the metrics."""

    def __init__(self, fetched: _Fetched, place: int):
        self._fetched, self._place = fetched, place

    def __getitem__(self, name: str) -> Any:
        return self._fetched.values[name][self._place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fetched.values)

    def __len__(self) -> int:
        return len(self._fetched.values)
