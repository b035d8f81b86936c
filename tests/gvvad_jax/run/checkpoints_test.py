"""Checkpoints: which are on disk when."""

import json
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pytest

from gvvad_jax.command import UserError
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


def _save(path, value, step=1):
    saved = checkpoints.Checkpoints(path)
    saved.save("last", step, {"weight": jnp.full(3, value), "step": jnp.int32(step)}, [0.5, None])
    saved.close()
    return saved


TEMPLATE = {"weight": jnp.zeros(3), "step": jnp.int32(0)}


def test_values_that_are_not_those_that_were_saved_are_refused(tmp_path):
    first = _save(tmp_path / "first", 1.0)
    assert first.restore("last", TEMPLATE)["weight"].tolist() == [1.0, 1.0, 1.0]
    assert first.measure("last") == [0.5, None]
    # Orbax can read them: another run's values lie where these were.
    _save(tmp_path / "second", 2.0)
    state = tmp_path / "first" / "checkpoints" / "last" / "1" / "state"
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "second" / "checkpoints" / "last" / "1" / "state", state)
    with pytest.raises(UserError, match=r"last/1: expected a whole checkpoint.* aren't those"):
        checkpoints.Checkpoints(tmp_path / "first").restore("last", TEMPLATE)


@pytest.mark.parametrize(
    "content", ["{", "[]x", '{"measure": "a"}', "3", '{"measure": [1], "x": 1}']
)
def test_a_damaged_note_of_a_checkpoint_is_one_line(tmp_path, content):
    _save(tmp_path, 1.0)
    (note,) = tmp_path.glob("checkpoints/last/1/measure/metadata")
    note.write_text(content)
    with pytest.raises(UserError, match="last/1: expected a whole checkpoint, found it damaged"):
        checkpoints.Checkpoints(tmp_path).measure("last")


@pytest.mark.parametrize("content", ["true", "[" * 100_000])
def test_damaged_notes_of_orbax_are_one_line(tmp_path, content):
    _save(tmp_path, 1.0)
    (tmp_path / "checkpoints" / "last" / "1" / "_CHECKPOINT_METADATA").write_text(content)
    with pytest.raises(UserError, match="last: expected a whole checkpoint, found it damaged"):
        checkpoints.Checkpoints(tmp_path).restore("last", TEMPLATE)


def test_a_full_disk_is_one_line(tmp_path):
    code = (
        "import sys, jax.numpy as jnp, numpy as np\n"
        "from gvvad_jax.command import run_command\n"
        "from gvvad_jax.run import checkpoints\n"
        "def main(_):\n"
        "    saved = checkpoints.Checkpoints(sys.argv[1])\n"
        "    noise = np.random.default_rng(0).normal(size=100_000)\n"
        "    saved.save('last', 1, {'weight': jnp.asarray(noise)}, [])\n"
        "    saved.close()\n"
        "run_command(main, usage='', argv=['x'])\n"
    )
    mounted = 'mount -t tmpfs -o size=200k tmpfs "$0" && exec "$@"'
    command = [sys.executable, "-c", code, str(tmp_path)]
    unshared = ["unshare", "-rm", "sh", "-c", mounted, str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*unshared, "true"], check=False).returncode:
        pytest.skip("needs a mount of its own (unshare -rm)")
    done = subprocess.run([*unshared, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"error: cannot read or write {tmp_path}/checkpoints/last: No space left on device; free "
        "some space or choose a folder on another disk\n"
    )


MODEL = {"config": {"a": 1}, "manifest": {}, "standardisation": None}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"config": 3}', json.dumps(MODEL), json.dumps(MODEL | {"sha256": "a"})],
)
def test_a_damaged_model_is_one_line(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError, match=r"^\S+/model.json: expected "):
        checkpoints.read_model(tmp_path)
