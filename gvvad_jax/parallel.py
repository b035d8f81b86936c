"""Runs the training step on one device, with pmap or on a mesh, in one process or several.

No other module depends on which. All three compute the same step of the same global batch up to the
order of sums, whose rounding grows with the steps in float32 and is next to nothing in float64:
dropout keys fold in the global place of a pair, BatchNorm's statistics are global, and the loss is
always a function of the whole batch. The training videos are split over the devices. Each process
reads only the videos of its own devices, and a step exchanges the rows of its batch.
"""

import atexit
import functools
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gvvad_jax.batches import Batch
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.step import Metrics, PyTree, TrainingData, TrainState, make_train_step, rows_at

AXIS = "data"
# After so long without a heartbeat a process counts as dead, and the others end.
HEARTBEAT_SECONDS = 20
# So long the other processes wait while the first one measures the test set.
SHUTDOWN_SECONDS = 24 * 3600
START_AGAIN = (
    "see the logs of the other processes, then start all of them again with the same command: it "
    "goes on from the last checkpoint"
)
Numbers = Mapping[str, float]
Step = Callable[[TrainState, TrainingData, Batch, Numbers], tuple[TrainState, Metrics]]
# Reads rows [start, stop) of an array.
ReadRows = Callable[[int, int], np.ndarray]


def join(config: TrainConfig) -> None:
    """Joins the processes of this run; must be called before any other use of JAX.

    Raises:
      UserError: --processes=ranks, but the variables that a launcher sets are missing or wrong.
    """
    if config.processes == "one" or jax.distributed.is_initialized():
        return
    given = _ranks(os.environ) if config.processes == "ranks" else {}
    jax.distributed.initialize(
        **given,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    _report_sudden_end()


def _report_sudden_end() -> None:
    """Prints one line if this process dies without reporting why.

    When a process loses another one, JAX ends it from C++, where no Python runs any more. So a
    shell reads from a pipe, which closes with this process however it ends.
    """
    message = f"error: {_this_process()} ended; {START_AGAIN}"
    command = ["sh", "-c", '[ -n "$(cat)" ] || echo "$0" >&2', message]
    shell = subprocess.Popen(command, stdin=subprocess.PIPE)
    # Whatever is written to the pipe keeps the shell silent.
    atexit.register(shell.communicate, b"ended normally")


def _this_process() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _ranks(environment: Mapping[str, str]) -> dict[str, Any]:
    """Returns the arguments of jax.distributed.initialize from a launcher's variables."""
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
    values = {name: environment.get(name, "") for name in names}
    numbers = [values["WORLD_SIZE"], values["RANK"], values["MASTER_PORT"]]
    if not values["MASTER_ADDR"] or not all(number.isdigit() for number in numbers):
        raise UserError(
            f"--processes=ranks: expected MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK, found "
            f"{values}; start with torchrun, or set them in every process"
        )
    if int(values["RANK"]) >= int(values["WORLD_SIZE"]):
        raise UserError(
            f"RANK, WORLD_SIZE: expected 0 <= RANK < WORLD_SIZE, found {values['RANK']} and "
            f"{values['WORLD_SIZE']}; the launcher sets them"
        )
    return {
        "coordinator_address": f"{values['MASTER_ADDR']}:{values['MASTER_PORT']}",
        "num_processes": int(values["WORLD_SIZE"]),
        "process_id": int(values["RANK"]),
    }


def from_first(values: PyTree) -> PyTree:
    """Returns the first process's arrays or numbers, in every process."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(values)


def lost(error: Exception) -> Interrupted:
    """Makes the error for failing devices of several processes: mostly, another process died."""
    return Interrupted(
        f"{_this_process()}: expected to hear from the others, found {str(error)[:200]!r}; "
        f"{START_AGAIN}"
    )


class Devices(Protocol):
    """One way to run the training step on devices.

    Attributes:
      step: dispatches one step, which reuses the buffers of its state.
    """

    step: Step

    def on_each(self, tree: PyTree) -> PyTree:
        """Copies arrays to each device."""

    def by_row(self, shape: tuple[int, ...], read_rows: ReadRows) -> jax.Array:
        """Splits an array by rows over the devices; its length divides by their number."""

    def batch(self, rows: np.ndarray) -> jax.typing.ArrayLike:
        """Places an array of a global batch for `step`."""

    def first(self, value: jax.Array) -> jax.Array:
        """Returns one copy of what on_each placed, on a device of this process."""


class Runner:
    """Holds the training state on the devices and runs steps.

    Args:
      config: the run's settings; `parallel` chooses the devices.
      state: the state to start from, on the host or on one device.

    Raises:
      UserError: the batch can't be divided equally among the devices.
    """

    def __init__(self, config: TrainConfig, state: TrainState):
        self.num_devices = 1 if config.parallel == "single" else jax.device_count()
        if config.batch_size % self.num_devices:
            raise UserError(
                f"--batch_size: expected a multiple of the {self.num_devices} devices, found "
                f"{config.batch_size}; change it or use --parallel=single"
            )
        kinds: dict[str, Callable[[TrainConfig], Devices]] = {
            "single": _Single, "pmap": _Pmap, "mesh": _Mesh,
        }  # fmt: skip
        self._devices = kinds[config.parallel](config.program)
        self._numbers = config.numbers
        self._state: TrainState = self._devices.on_each(state)

    def step(self, data: TrainingData, batch: Batch) -> Metrics:
        """Dispatches one step; returns its metrics, which stay on the device.

        Args:
          data: training videos placed by `by_row` and `on_each`.
          batch: the whole global batch, on the host: rows of these videos.
        """
        self._state, metrics = self._devices.step(
            self._state, data, jax.tree.map(self._devices.batch, batch), self._numbers
        )
        return {name: self._devices.first(value) for name, value in metrics.items()}

    def state(self) -> TrainState:
        """Returns the current state as one copy on a device of this process."""
        return jax.tree.map(self._devices.first, self._state)

    def on_each(self, tree: PyTree) -> PyTree:
        """Copies arrays to each device."""
        return self._devices.on_each(tree)

    def by_row(self, shape: tuple[int, ...], read_rows: ReadRows, at_least: int = 0) -> jax.Array:
        """Splits an array by rows over the devices of all processes, padded to equal parts.

        Args:
          shape: shape of the whole array.
          read_rows: reads rows [start, stop); called only for rows of this process's devices.
          at_least: number of rows to pad to.
        """
        rows = -(-max(shape[0], at_least) // self.num_devices)

        def part(start: int, stop: int) -> np.ndarray:
            part_Rx = read_rows(min(start, shape[0]), min(stop, shape[0]))
            padding = [(0, stop - start - len(part_Rx)), *[(0, 0)] * (part_Rx.ndim - 1)]
            return np.pad(part_Rx, padding) if padding[0][1] else part_Rx

        return self._devices.by_row((rows * self.num_devices, *shape[1:]), part)


def _exchange(shard_Rx: jax.Array, videos_V: jax.Array, crops_k: jax.Array | None) -> jax.Array:
    """Gathers rows as step.rows_at does, where the videos are split over the devices.

    Every device gathers the rows that it holds of what all devices ask for, with zeros for the
    others, and the sum over devices goes back to those that asked.
    """
    wanted_W = jax.lax.all_gather(videos_V, AXIS, tiled=True)
    places_W = wanted_W - jax.lax.axis_index(AXIS) * len(shard_Rx)
    is_here_W = (places_W >= 0) & (places_W < len(shard_Rx))
    rows_Wx = rows_at(shard_Rx, jnp.where(is_here_W, places_W, 0), crops_k)
    rows_Wx = jnp.where(is_here_W.reshape(-1, *[1] * (rows_Wx.ndim - 1)), rows_Wx, 0)
    return jax.lax.psum_scatter(rows_Wx, AXIS, tiled=True)


@functools.lru_cache(maxsize=8)
def _single_step(program: TrainConfig) -> Step:
    """Compiles nothing again for another run of a program in this process."""
    return jax.jit(make_train_step(program), donate_argnums=0)


class _Single:
    """Runs the step on one device."""

    def __init__(self, program: TrainConfig):
        self.step = _single_step(program)

    def on_each(self, tree: PyTree) -> PyTree:
        # A copy, because a step reuses the buffers of its state.
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)

    def by_row(self, shape: tuple[int, ...], read_rows: ReadRows) -> jax.Array:
        return jnp.asarray(read_rows(0, shape[0]))

    def batch(self, rows: np.ndarray) -> jax.Array:
        return jnp.asarray(rows)

    def first(self, value: jax.Array) -> jax.Array:
        return value


class _Pmap:
    """Runs the step with pmap: every array has the devices of this process on a leading axis."""

    def __init__(self, program: TrainConfig):
        def gather(shard: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), shard)

        step = make_train_step(program, axis_name=AXIS, gather=gather, rows_at=_exchange)
        self.step: Step = jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, 0, None), donate_argnums=0)
        self._local = jax.local_device_count()
        mesh = Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def on_each(self, tree: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: jax.device_put(
                jnp.broadcast_to(jnp.asarray(leaf), (self._local, *jnp.shape(leaf))),
                self._sharding,
            ),
            tree,
        )

    def by_row(self, shape: tuple[int, ...], read_rows: ReadRows) -> jax.Array:
        rows = shape[0] // jax.device_count()
        before = jax.process_index() * self._local

        def device_rows(index: Any) -> np.ndarray:
            start = (before + (index[0].start or 0)) * rows
            return read_rows(start, start + rows)[None]

        local = (self._local, rows, *shape[1:])
        return jax.make_array_from_callback(local, self._sharding, device_rows)

    def batch(self, rows: np.ndarray) -> np.ndarray:
        by_process = rows.reshape(jax.process_count(), self._local, -1, *rows.shape[1:])
        return by_process[jax.process_index()]

    def first(self, value: jax.Array) -> jax.Array:
        # value[0] would gather from all devices.
        return value.addressable_shards[0].data[0]


class _Mesh:
    """Runs the step with jit on a mesh of all devices of all processes."""

    def __init__(self, program: TrainConfig):
        # jax.devices() lists the processes in order, so a process's pairs go to its own devices.
        mesh = Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._by_row = NamedSharding(mesh, PartitionSpec(AXIS))
        split, whole = PartitionSpec(AXIS), PartitionSpec()
        exchange = jax.shard_map(
            _exchange, mesh=mesh, in_specs=(split, split, whole), out_specs=split
        )
        split_fields = ("visual_VxNxTxD", "text_VxTxE", "stream_VxTxE", "synthetic_V")
        fields = dict.fromkeys(split_fields, self._by_row)
        data: PyTree = TrainingData(**fields, bank_KxE=self._replicated)  # type: ignore[arg-type]
        self.step: Step = jax.jit(
            make_train_step(program, rows_at=exchange),
            in_shardings=(self._replicated, data, self._by_row, self._replicated),
            out_shardings=(self._replicated, self._replicated),
            donate_argnums=0,
        )

    def on_each(self, tree: PyTree) -> PyTree:
        def replicate(leaf: jax.typing.ArrayLike) -> jax.Array:
            return jax.make_array_from_callback(
                jnp.shape(leaf), self._replicated, lambda index: np.array(leaf)[index]
            )

        return jax.tree.map(replicate, tree)

    def by_row(self, shape: tuple[int, ...], read_rows: ReadRows) -> jax.Array:
        def device_rows(index: Any) -> np.ndarray:
            return read_rows(index[0].start or 0, index[0].stop or shape[0])

        return jax.make_array_from_callback(shape, self._by_row, device_rows)

    def batch(self, rows: np.ndarray) -> jax.Array:
        # Every process has the whole batch and gives its devices their pairs.
        return jax.make_array_from_callback(rows.shape, self._by_row, lambda index: rows[index])

    def first(self, value: jax.Array) -> jax.Array:
        return value.addressable_shards[0].data
