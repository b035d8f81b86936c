"""Where the training step runs: one device, pmap, or a mesh over several processes.

Nothing else knows which. All three give the same numbers on the same global batch: dropout keys
fold in the global place of a pair, BatchNorm's statistics are global, and the loss is always a
function of the whole batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gvvad_jax.batches import Batch
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.step import TrainingData, TrainState, make_train_step

AXIS = "data"


class Runner:
    """Holds the state on the devices and steps it.

    Args:
      config: the run's settings; `parallel` says where.
      state: to start from, on the host or one device.
      data: the training videos; copied to the devices.

    Raises:
      UserError: a batch that the devices can't share equally.
    """

    def __init__(self, config: TrainConfig, state: TrainState, data: TrainingData):
        devices = 1 if config.parallel == "single" else jax.device_count()
        if config.batch_size % devices:
            raise UserError(
                f"--batch_size: expected a multiple of the {devices} devices, found "
                f"{config.batch_size}; change it or use --parallel=single"
            )
        make = {"single": _single, "pmap": _pmap, "mesh": _mesh}[config.parallel]
        self._place, self._step, self._batch, self._first = make(config)
        self._state, self._data = self._place(state), self._place(data)

    def step(self, batch: Batch) -> dict[str, jax.Array]:
        """Dispatches one step on a batch; returns its metrics, still on the device."""
        batch = jax.tree.map(self._batch, batch)
        self._state, metrics = self._step(self._state, self._data, batch)
        return {name: self._first(value) for name, value in metrics.items()}

    def state(self) -> TrainState:
        """The state as one copy, as it is now."""
        return jax.tree.map(self._first, self._state)

    def set_state(self, state: TrainState) -> None:
        self._state = self._place(state)


Parts = tuple[Callable[[Any], Any], Callable, Callable[[np.ndarray], jax.Array], Callable]


def _fresh(tree: Any) -> Any:
    # A copy, because the step is given its state to keep.
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def _single(config: TrainConfig) -> Parts:
    step = jax.jit(make_train_step(config), donate_argnums=0)
    return _fresh, step, jnp.asarray, lambda value: value


def _pmap(config: TrainConfig) -> Parts:
    def gather(shard: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), shard)

    step = jax.pmap(
        make_train_step(config, axis_name=AXIS, gather=gather), axis_name=AXIS, donate_argnums=0
    )
    devices = jax.local_devices()

    def place(tree: Any) -> Any:
        mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(mesh, PartitionSpec(AXIS))
        return jax.tree.map(
            lambda leaf: jax.device_put(
                jnp.broadcast_to(jnp.asarray(leaf), (len(devices), *jnp.shape(leaf))), sharding
            ),
            tree,
        )

    def batch(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(devices), -1, *rows.shape[1:])

    # Not value[0], which gathers from all devices.
    return place, step, batch, lambda value: value.addressable_shards[0].data[0]


def _mesh(config: TrainConfig) -> Parts:
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    by_pair = NamedSharding(mesh, PartitionSpec(AXIS))
    step = jax.jit(
        make_train_step(config),
        in_shardings=(replicated, replicated, by_pair),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )

    def place(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.make_array_from_callback(
                jnp.shape(leaf), replicated, lambda index, leaf=leaf: np.array(leaf)[index]
            ),
            tree,
        )

    def batch(rows: np.ndarray) -> jax.Array:
        # Every process knows the whole batch and gives its devices their pairs.
        return jax.make_array_from_callback(rows.shape, by_pair, lambda index: rows[index])

    return place, step, batch, lambda value: value.addressable_shards[0].data
