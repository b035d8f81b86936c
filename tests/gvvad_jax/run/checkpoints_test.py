"""Checkpoints: which are on disk when."""

import jax.numpy as jnp

from gvvad_jax.run import checkpoints
from tests.support.slow_disk import delay_commits


def test_the_last_is_never_there_before_the_best_of_its_step(tmp_path, monkeypatch):
    """Else a run killed in between would go on from it and never consider the best again."""
    committed = delay_commits(monkeypatch, "best_on_validation")
    saved = checkpoints.Checkpoints(tmp_path)
    saved.save("best_on_validation", 4, {"weight": jnp.ones(3)}, [0.5])
    saved.save("last", 4, {"weight": jnp.ones(3)}, [])
    saved.close()
    assert committed == ["best_on_validation/4", "last/4"]
