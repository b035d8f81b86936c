"""Checkpoints: which are on disk when."""

import asyncio

import jax.numpy as jnp
from orbax.checkpoint._src.path import atomicity

from gvvad_jax import checkpoints


def delay_commits(monkeypatch, kind):
    """Has the disk be slow with checkpoints of a kind; returns a list of what is committed."""
    finalize, committed = atomicity.AtomicRenameTemporaryPath.finalize, []

    async def slow(self):
        path = self.get_final()
        is_whole = path.name.isdigit()
        if is_whole and path.parent.name == kind:
            await asyncio.sleep(0.5)
        await finalize(self)
        if is_whole:
            committed.append(f"{path.parent.name}/{path.name}")

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", slow)
    return committed


def test_the_last_is_never_there_before_the_best_of_its_step(tmp_path, monkeypatch):
    """Else a run killed in between would go on from it and never consider the best again."""
    committed = delay_commits(monkeypatch, "best_on_validation")
    saved = checkpoints.Checkpoints(tmp_path)
    saved.save("best_on_validation", 4, {"weight": jnp.ones(3)}, [0.5])
    saved.save("last", 4, {"weight": jnp.ones(3)}, [])
    saved.close()
    assert committed == ["best_on_validation/4", "last/4"]
