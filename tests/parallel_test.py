"""One device, pmap and a mesh take the same steps on the same global batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvvad_jax import parallel, step
from gvvad_jax.batches import Batch
from gvvad_jax.command import UserError
from gvvad_jax.config import DETECTORS, TrainConfig
from tests.step_test import _data

SMALL = {"head_widths": (16, 8), "mtn_channels": 4, "body_width": 8, "memory_rows": 20}
SMALL |= {"batch_size": 4, "segments": 6}


def _run(config, steps=3):
    runner = parallel.Runner(config, step.init_state(config, 12, 8), _data())
    rng = np.random.default_rng(0)
    metrics = {}
    for _ in range(steps):
        videos_Bx2 = rng.integers(0, 8, (4, 2)).astype(np.int32)
        batch = Batch(videos_Bx2=videos_Bx2, pairs_B=np.arange(4, dtype=np.int32))
        if config.mixup:
            batch = batch._replace(
                partners_Bx2=rng.integers(0, 8, (4, 2)).astype(np.int32),
                shares_Bx2=rng.uniform(0.5, 1, (4, 2)).astype(np.float32),
                held_out_Bx2=rng.integers(0, 8, (4, 2)).astype(np.int32),
            )
        metrics = jax.device_get(runner.step(batch))
    return jax.device_get(runner.state()), metrics


@functools.lru_cache
def _on_one_device(config):
    return _run(config)


OPTIONS = {"lambda_mode": "meta", "mixup": 0.5, "train_crops": 1, "ema": 0.9, "clip_norm": 1.0}
CASES = [TrainConfig(detector=name, **SMALL) for name in DETECTORS]
CASES.append(TrainConfig(detector="mil_rank", **SMALL, **OPTIONS))


@pytest.mark.parametrize("config", CASES, ids=[*DETECTORS, "options"])
@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_equals_one_device_with_dropout_on(config, mode):
    assert jax.device_count() == 2
    state, metrics = _on_one_device(config)
    other, other_metrics = _run(dataclasses.replace(config, parallel=mode))
    assert other_metrics.keys() == metrics.keys()
    for key, value in metrics.items():
        np.testing.assert_allclose(other_metrics[key], value, rtol=1e-4, atol=1e-6, err_msg=key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        other.batch_stats,
        state.batch_stats,
    )


def test_a_batch_that_devices_cannot_share_is_told():
    config = TrainConfig(detector="rtfm", parallel="pmap", **(SMALL | {"batch_size": 3}))
    with pytest.raises(UserError, match="batch_size: expected a multiple of the 2 devices"):
        _run(config)


def test_the_callers_state_stays_usable():
    config = TrainConfig(detector="rtfm", **SMALL)
    state = step.init_state(config, 12, 8)
    runner = parallel.Runner(config, state, _data())
    runner.step(Batch(np.zeros((4, 2), np.int32), np.arange(4, dtype=np.int32)))
    assert int(state.step) == 0
    assert bool(jnp.isfinite(state.params["detector"]["head"]["fc1"]["kernel"]).all())
