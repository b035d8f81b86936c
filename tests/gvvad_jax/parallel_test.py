"""Where a step runs; that all ways take the same steps is devices_test.py's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvvad_jax import parallel, step
from gvvad_jax.batches import Batch
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from tests.support.steps import SMALL, make_data

MODES = ("single", "pmap", "mesh")


def _runner(mode="single", **changes):
    config = TrainConfig(detector="mil_rank", parallel=mode, **(SMALL | changes))
    return parallel.Runner(config, step.init_state(config, 12, 8))


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match="batch_size: expected a multiple of the 2 devices"):
        _runner("pmap", batch_size=3)


def test_the_callers_state_stays_usable():
    config = TrainConfig(detector="mil_rank", **SMALL)
    state = step.init_state(config, 12, 8)
    runner = parallel.Runner(config, state)
    runner.step(make_data(), Batch(np.zeros((2, 2), np.int32), np.arange(2, dtype=np.int32)))
    assert int(state.step) == 0
    assert bool(jnp.isfinite(state.params["detector"]["fc1"]["kernel"]).all())


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_split_over_the_devices_and_padded(mode):
    array_Vx = np.arange(10, dtype=np.float32).reshape(5, 2)
    asked = []

    def read_rows(start, stop):
        asked.append((start, stop))
        return array_Vx[start:stop]

    found = _runner(mode).by_row(array_Vx.shape, read_rows)
    assert sorted(asked) == ([(0, 5)] if mode == "single" else [(0, 3), (3, 5)])
    shards = [np.asarray(shard.data).reshape(-1, 2) for shard in found.addressable_shards]
    assert {len(shard) for shard in shards} == ({5} if mode == "single" else {3})
    whole = np.concatenate(shards)
    np.testing.assert_array_equal(whole[:5], array_Vx)
    assert not whole[5:].any()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "expected MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK"),
        ({"RANK": "x"}, "expected MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK"),
        ({"RANK": "2"}, "expected 0 <= RANK < WORLD_SIZE, found 2 and 2"),
    ],
)
def test_missing_or_wrong_ranks_are_refused(environment, message, monkeypatch):
    given = {"MASTER_ADDR": "here", "MASTER_PORT": "1", "WORLD_SIZE": "2"} if environment else {}
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (given | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        parallel.join(TrainConfig(parallel="mesh", processes="ranks"))


def test_alone_there_is_nothing_to_join():
    parallel.join(TrainConfig())
    assert jax.process_count() == 1
    assert parallel.from_first(3) == 3
