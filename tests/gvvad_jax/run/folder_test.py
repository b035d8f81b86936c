"""A run's folder: what may be written into it by hand, and who may use it."""

import errno
import fcntl
import subprocess
import sys

import pytest

from gvvad_jax.command import UserError, to_flagfile
from gvvad_jax.config import TrainConfig
from gvvad_jax.run import folder

MADE_OF = {
    "stores": ["a"],
    "synthetic_store": None,
    "decisions": None,
    "annotations": None,
    "bank": None,
    "splits": "b",
    "labels": "c",
}


def test_flags_may_be_commented(tmp_path):
    config = TrainConfig(workdir=str(tmp_path))
    flags = to_flagfile(config)
    folder.claim(tmp_path, config, MADE_OF)
    (tmp_path / "config.flags").write_text(f"# Mine.\n\n// Too.\n{flags}")
    assert folder.require_flags(config) == tmp_path
    (tmp_path / "config.flags").write_text(f"--mine\n{flags}")
    with pytest.raises(UserError, match="expected the same flags .* --mine= there"):
        folder.require_flags(config)


def test_the_lock_dies_with_its_process(tmp_path):
    code = (
        "import pathlib, sys; from gvvad_jax.run import folder\n"
        "with folder.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="other process"), folder.locked(tmp_path):
            pass
        other.kill()
    for _ in range(2):  # Nor is it kept.
        with folder.locked(tmp_path):
            pass


def test_disks_without_locks_do(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with folder.locked(tmp_path):
        pass
