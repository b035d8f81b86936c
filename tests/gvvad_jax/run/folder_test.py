"""A run's folder: what may be written into it by hand, and who may use it."""

import errno
import fcntl
import os
import pathlib
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


@pytest.mark.parametrize(
    "content", ["", "[]", "3", '{"format_version": 2}', '{"format_version": "2", "stores": [1]}']
)
def test_a_damaged_note_of_what_was_begun_is_one_line(tmp_path, content):
    config = TrainConfig(workdir=str(tmp_path))
    folder.claim(tmp_path, config, MADE_OF)
    (tmp_path / "begun.json").write_text(content)
    with pytest.raises(UserError, match=r"^\S+begun.json: expected "):
        folder.require_flags(config)


def test_a_run_of_version_1_is_not_resumed(tmp_path):
    config = TrainConfig(workdir=str(tmp_path))
    folder.claim(tmp_path, config, MADE_OF)
    for change in (lambda path: path.write_text('{"stores": []}'), pathlib.Path.unlink):
        change(tmp_path / "begun.json")
        with pytest.raises(UserError, match="of version 1, which scores but can't be resumed"):
            folder.require_flags(config)


def test_flags_that_are_no_text_are_one_line(tmp_path):
    config = TrainConfig(workdir=str(tmp_path))
    folder.claim(tmp_path, config, MADE_OF)
    (tmp_path / "config.flags").write_bytes(b"\xff")
    with pytest.raises(UserError, match="config.flags: expected the flags of a run, found no UTF"):
        folder.require_flags(config)
    (tmp_path / "config.flags").write_bytes(bytes(3000))
    with pytest.raises(UserError, match="config.flags: expected the flags of a run") as caught:
        folder.require_flags(TrainConfig(store="s", workdir=str(tmp_path)))
    assert len(str(caught.value)) < 800


def test_a_result_of_other_flags_does_not_outlive_the_start_of_a_run(tmp_path):
    """A run that goes on for more steps, and is killed, has no result of its flags."""
    for steps, stays in ((4, False), (4, True), (8, False)):
        folder.claim(tmp_path, TrainConfig(workdir=str(tmp_path), steps=steps), MADE_OF)
        assert (tmp_path / "result.json").exists() == stays
        (tmp_path / "result.json").write_text("{}")


def test_what_a_killed_run_left_is_cleared(tmp_path):
    for name in (".result.json.0a1b2c3d.partial", "result.json"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    unfinished = tmp_path / "checkpoints" / "last" / "4.orbax-checkpoint-tmp" / "state"
    unfinished.mkdir(parents=True)
    (tmp_path / "checkpoints" / "last" / "2").mkdir()
    with folder.locked(tmp_path):
        left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left == [".lock", "checkpoints", "checkpoints/last", "checkpoints/last/2", "result.json"]


def test_a_lock_that_is_a_link_keeps_its_target(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to("../precious")
    with pytest.raises(UserError, match="found a link"), folder.locked(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
