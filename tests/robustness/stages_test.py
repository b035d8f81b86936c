"""Every stage is killed anywhere, runs out of space, meets a read-only disk and itself."""

import contextlib
import random
import re
import signal
import subprocess
import sys

import pytest

from tests.robustness import WHOLE
from tests.robustness.stages import STAGES, make_inputs, run, start

pytestmark = [pytest.mark.robustness, pytest.mark.slow]
KILLS = 40 if WHOLE else 1


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module", params=STAGES)
def stage(request, inputs, tmp_path_factory):
    """A stage, its result when nothing disturbs it, and its number of file-system changes."""
    stage, out = STAGES[request.param], tmp_path_factory.mktemp("undisturbed")
    _, errors = run(_watched(stage, inputs, out, 0))
    return stage, stage.result(out), int(re.search(r"changes: (\d+)", errors)[1])


def _watched(stage, inputs, out, count):
    command = stage.command(inputs, out)
    start = command.index("-m") + 1
    changes = ("tests.support.killing", f"--changes={out}", str(count))
    return [*command[:start], *changes, *command[start:]]


def test_killed_anywhere_the_same_command_ends_as_if_it_were_not(stage, inputs, tmp_path):
    stage, expected, changes = stage
    assert expected and changes > 1
    # The sample is the same each time; the whole suite prints its seed.
    seed = random.randrange(10**6) if WHOLE else 0
    print(f"seed {seed}, {changes} changes")
    for i, count in enumerate(random.Random(seed).choices(range(1, changes + 1), k=KILLS)):
        out = tmp_path / str(i)
        out.mkdir()
        killed = _watched(stage, inputs, out, count)
        run(killed, statuses=(-signal.SIGKILL,))
        run(stage.command(inputs, out))
        assert stage.result(out) == expected, f"killed at change {count} of {changes}"


@contextlib.contextmanager
def _small_disk(path, size):
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs more rights")
    try:
        yield lambda options: subprocess.run(
            ["mount", "-o", f"remount,{options}", str(path)], check=True
        )
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_or_read_only_disk_is_one_line_and_nothing_is_lost(stage, inputs, tmp_path):
    stage, expected, _ = stage
    with _small_disk(tmp_path / "disk", stage.room) as remount:
        out = tmp_path / "disk"
        remount("ro")
        _, errors = run(stage.command(inputs, out), statuses=(2,))
        assert _last_lines(errors, "error: "), errors
        remount("rw")
        _, errors = run(stage.command(inputs, out), statuses=(2,))
        assert "No space left" in errors and _last_lines(errors, "error: "), errors
        remount("size=100m")
        run(stage.command(inputs, out))
        assert stage.result(out) == expected


def _last_lines(errors, start):
    """Tells whether exactly one line begins so."""
    return sum(line.startswith(start) for line in errors.splitlines()) == 1


def test_two_at_once_lose_nothing(stage, inputs, tmp_path):
    stage, expected, _ = stage
    both = [start(stage.command(inputs, tmp_path)) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=280)
        assert "Traceback" not in errors, errors
        assert process.returncode in (0, 2), errors
        # The second one stops and says why, or both write the same files.
        assert process.returncode == 0 or re.search("no other .*, found one", errors), errors
    assert any(process.returncode == 0 for process in both)
    run(stage.command(inputs, tmp_path))
    assert stage.result(tmp_path) == expected
