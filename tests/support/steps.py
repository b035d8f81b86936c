"""Sizes, training videos and compiled programs of tests that take single steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gvvad_jax import step

SMALL = {"head_widths": (16, 8), "mtn_channels": 4, "body_width": 8, "memory_rows": 20}
SMALL |= {"batch_size": 2, "segments": 6}


def make_data(dim=12, text_dim=8, videos=8):
    rng = np.random.default_rng(0)
    return step.TrainingData(
        visual_VxNxTxD=jnp.asarray(rng.normal(size=(videos, 2, 6, dim)), jnp.float32),
        text_VxTxE=jnp.asarray(rng.normal(size=(videos, 6, text_dim)), jnp.float32),
        synthetic_V=jnp.arange(videos) % 4 > 1,
        bank_KxE=jnp.eye(3, text_dim),
    )


@functools.cache
def train_step(config):
    """The training step, traced and compiled once for all tests of a config."""
    return jax.jit(step.make_train_step(config))


@functools.cache
def gradients(config):
    """The gradients of a batch, traced and compiled once for all tests of a config."""
    return jax.jit(step.make_gradients(config, None, lambda shard: shard, step.rows_at))
