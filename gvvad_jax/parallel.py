"""Where the training step runs: one device, pmap, or a mesh; over one process or several.

Nothing else knows which. All three give the same numbers on the same global batch: dropout keys
fold in the global place of a pair, BatchNorm's statistics are global, and the loss is always a
function of the whole batch. The training videos are split over the devices, each process reading
its own devices' alone; a step exchanges the rows of its batch.
"""

import atexit
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gvvad_jax.batches import Batch
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.step import TrainingData, TrainState, make_train_step, rows_at

AXIS = "data"
# A process that isn't heard of for so long is dead, and the others end.
HEARTBEAT_SECONDS = 20
# The others wait while the first process measures the test set.
SHUTDOWN_SECONDS = 24 * 3600
START_AGAIN = (
    "see the logs of the other processes, then start all of them again with the same command: it "
    "goes on from the last checkpoint"
)
RowsOf = Callable[[int, int], np.ndarray]


def join(config: TrainConfig) -> None:
    """Joins the processes of this run; must come before anything else of JAX.

    Raises:
      UserError: --processes=ranks without the variables that a launcher sets.
    """
    if config.processes == "one" or jax.distributed.is_initialized():
        return
    given = _ranks(os.environ) if config.processes == "ranks" else {}
    jax.distributed.initialize(
        **given,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    _tell_of_a_sudden_end()


def _tell_of_a_sudden_end() -> None:
    """Has a line said should this process end without one of its own.

    JAX ends a process that has lost another from C++, where nothing of Python runs any more. So a
    shell waits at a pipe, which closes with this process however it ends.
    """
    said = f"error: {_this_process()} ended; {START_AGAIN}"
    command = ["sh", "-c", '[ -n "$(cat)" ] || echo "$0" >&2', said]
    waiting = subprocess.Popen(command, stdin=subprocess.PIPE)
    atexit.register(waiting.communicate, b"an end of its own")


def _this_process() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _ranks(environment: Mapping[str, str]) -> dict[str, Any]:
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
    found = {name: environment.get(name, "") for name in names}
    numbers = [found["WORLD_SIZE"], found["RANK"], found["MASTER_PORT"]]
    if not found["MASTER_ADDR"] or not all(number.isdigit() for number in numbers):
        raise UserError(
            f"--processes=ranks: expected MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK, found "
            f"{found}; start with torchrun, or set them in every process"
        )
    if int(found["RANK"]) >= int(found["WORLD_SIZE"]):
        raise UserError(
            f"RANK, WORLD_SIZE: expected 0 <= RANK < WORLD_SIZE, found {found['RANK']} and "
            f"{found['WORLD_SIZE']}; the launcher sets them"
        )
    return {
        "coordinator_address": f"{found['MASTER_ADDR']}:{found['MASTER_PORT']}",
        "num_processes": int(found["WORLD_SIZE"]),
        "process_id": int(found["RANK"]),
    }


def from_first(values: Any) -> Any:
    """The first process's arrays or numbers, in every process."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(values)


def lost(error: Exception) -> Interrupted:
    """What to tell when the devices of several processes fail: mostly, another process is gone."""
    return Interrupted(
        f"{_this_process()}: expected to hear from the others, found {str(error)[:200]!r}; "
        f"{START_AGAIN}"
    )


class Runner:
    """Holds the state on the devices and steps it.

    Args:
      config: the run's settings; `parallel` says where.
      state: to start from, on the host or one device.

    Raises:
      UserError: a batch that the devices can't share equally.
    """

    def __init__(self, config: TrainConfig, state: TrainState):
        self.num_devices = 1 if config.parallel == "single" else jax.device_count()
        if config.batch_size % self.num_devices:
            raise UserError(
                f"--batch_size: expected a multiple of the {self.num_devices} devices, found "
                f"{config.batch_size}; change it or use --parallel=single"
            )
        self._where = {"single": _Single, "pmap": _Pmap, "mesh": _Mesh}[config.parallel](config)
        self._state = self._where.on_each(state)

    def step(self, data: TrainingData, batch: Batch) -> dict[str, jax.Array]:
        """Dispatches one step on a batch; returns its metrics, still on the device.

        Args:
          data: videos that by_row and on_each placed.
          batch: rows of them, the whole global batch, on the host.
        """
        self._state, metrics = self._where.step(
            self._state, data, jax.tree.map(self._where.batch, batch)
        )
        return {name: self._where.first(value) for name, value in metrics.items()}

    def state(self) -> TrainState:
        """The state as one copy on a device of this process, as it is now."""
        return jax.tree.map(self._where.first, self._state)

    def on_each(self, tree: Any) -> Any:
        """Arrays as a copy on each device."""
        return self._where.on_each(tree)

    def by_row(self, shape: tuple[int, ...], rows_of: RowsOf) -> jax.Array:
        """An array split by rows over the devices of all processes, padded to equal parts.

        Args:
          shape: of the whole array.
          rows_of: (start, stop) to its rows; asked for those of this process's devices alone.
        """
        rows = -(-shape[0] // self.num_devices)

        def part(start: int, stop: int) -> np.ndarray:
            found = rows_of(min(start, shape[0]), min(stop, shape[0]))
            padding = [(0, stop - start - len(found)), *[(0, 0)] * (found.ndim - 1)]
            return np.pad(found, padding) if padding[0][1] else found

        return self._where.by_row((rows * self.num_devices, *shape[1:]), part)


def _exchange(shard_Rx: jax.Array, videos_V: jax.Array, crops_k: jax.Array | None) -> jax.Array:
    """step.rows_at of videos that are split over the devices: each gives what it has."""
    everyones_W = jax.lax.all_gather(videos_V, AXIS, tiled=True)
    places_W = everyones_W - jax.lax.axis_index(AXIS) * len(shard_Rx)
    is_here_W = (places_W >= 0) & (places_W < len(shard_Rx))
    rows_Wx = rows_at(shard_Rx, jnp.where(is_here_W, places_W, 0), crops_k)
    rows_Wx = jnp.where(is_here_W.reshape(-1, *[1] * (rows_Wx.ndim - 1)), rows_Wx, 0)
    return jax.lax.psum_scatter(rows_Wx, AXIS, tiled=True)


class _Single:
    def __init__(self, config: TrainConfig):
        self.step = jax.jit(make_train_step(config), donate_argnums=0)

    def on_each(self, tree: Any) -> Any:
        # A copy, because the step is given its state to keep.
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)

    def by_row(self, shape: tuple[int, ...], rows_of: RowsOf) -> jax.Array:
        return jnp.asarray(rows_of(0, shape[0]))

    def batch(self, rows: np.ndarray) -> jax.Array:
        return jnp.asarray(rows)

    def first(self, value: jax.Array) -> jax.Array:
        return value


class _Pmap:
    def __init__(self, config: TrainConfig):
        def gather(shard: Any) -> Any:
            return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), shard)

        step = make_train_step(config, axis_name=AXIS, gather=gather, rows_at=_exchange)
        self.step = jax.pmap(step, axis_name=AXIS, donate_argnums=0)
        self._local = jax.local_device_count()
        mesh = Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def on_each(self, tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.device_put(
                jnp.broadcast_to(jnp.asarray(leaf), (self._local, *jnp.shape(leaf))),
                self._sharding,
            ),
            tree,
        )

    def by_row(self, shape: tuple[int, ...], rows_of: RowsOf) -> jax.Array:
        rows = shape[0] // jax.device_count()
        before = jax.process_index() * self._local

        def of_device(index: tuple[slice, ...]) -> np.ndarray:
            start = (before + (index[0].start or 0)) * rows
            return rows_of(start, start + rows)[None]

        local = (self._local, rows, *shape[1:])
        return jax.make_array_from_callback(local, self._sharding, of_device)

    def batch(self, rows: np.ndarray) -> np.ndarray:
        of_process = rows.reshape(jax.process_count(), self._local, -1, *rows.shape[1:])
        return of_process[jax.process_index()]

    def first(self, value: jax.Array) -> jax.Array:
        # Not value[0], which gathers from all devices.
        return value.addressable_shards[0].data[0]


class _Mesh:
    def __init__(self, config: TrainConfig):
        # In the order of the processes, so that a process's pairs are its own devices'.
        mesh = Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._by_row = NamedSharding(mesh, PartitionSpec(AXIS))
        split, whole = PartitionSpec(AXIS), PartitionSpec()
        exchange = jax.shard_map(
            _exchange, mesh=mesh, in_specs=(split, split, whole), out_specs=split
        )
        data = TrainingData(
            visual_VxNxTxD=self._by_row, text_VxTxE=self._by_row, synthetic_V=self._by_row,
            bank_KxE=self._replicated,
        )  # fmt: skip
        self.step = jax.jit(
            make_train_step(config, rows_at=exchange),
            in_shardings=(self._replicated, data, self._by_row),
            out_shardings=(self._replicated, self._replicated),
            donate_argnums=0,
        )

    def on_each(self, tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.make_array_from_callback(
                jnp.shape(leaf), self._replicated, lambda index, leaf=leaf: np.array(leaf)[index]
            ),
            tree,
        )

    def by_row(self, shape: tuple[int, ...], rows_of: RowsOf) -> jax.Array:
        return jax.make_array_from_callback(
            shape,
            self._by_row,
            lambda index: rows_of(index[0].start or 0, index[0].stop or shape[0]),
        )

    def batch(self, rows: np.ndarray) -> jax.Array:
        # Every process knows the whole batch and gives its devices their pairs.
        return jax.make_array_from_callback(rows.shape, self._by_row, lambda index: rows[index])

    def first(self, value: jax.Array) -> jax.Array:
        return value.addressable_shards[0].data
