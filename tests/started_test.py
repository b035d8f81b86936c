"""Commands that a server starts are as those that Python starts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support import started

SAYS = """
import os, sys
open("begun", "w").close()
print(__name__, sys.argv[1:], sys.stdin.read(), os.getcwd(), os.environ.get("RANK"))
print("complaint", file=sys.stderr)
if sys.argv[1] == "raise":
    raise KeyError("gone")
if sys.argv[1] == "die":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "wait":
    import signal
    signal.pause()
sys.exit("jax" in sys.modules if sys.argv[1] == "jax" else int(sys.argv[1]))
"""


@pytest.fixture
def says(tmp_path):
    (tmp_path / "says.py").write_text(SAYS)
    return {"cwd": tmp_path, "text": True, "env": os.environ | {"RANK": "3"}}


def _run(says, *arguments, python=None):
    command = [*(python or started.python()), "-m", "says", *arguments]
    return subprocess.run(command, input="given", capture_output=True, check=False, **says)


def _wait(process, ready):
    while not ready():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("asked", "status"), [("0", 0), ("3", 3), ("raise", 1), ("die", -signal.SIGKILL)]
)
def test_streams_folder_environment_and_exit_status_are_those_of_python(asked, status, says):
    found, expected = _run(says, asked), _run(says, asked, python=[sys.executable])
    assert found.returncode == expected.returncode == status
    assert found.stdout == expected.stdout
    assert found.stderr.splitlines()[-1] == expected.stderr.splitlines()[-1]


def test_signals_reach_the_command(says, tmp_path):
    command = [*started.python(), "-m", "says", "wait"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **says) as process:
        _wait(process, (tmp_path / "begun").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_libraries_are_there_but_for_variables_that_their_import_reads(says):
    assert _run(says, "jax").returncode == 1
    says["env"] |= {"JAX_ENABLE_X64": "1"}
    assert _run(says, "jax").returncode == 0


def test_when_the_worker_ends_what_runs_goes_on_and_python_itself_starts(says, tmp_path):
    """Another worker's commands lose nothing."""
    path = tmp_path / "jax"
    serve = [sys.executable, "-P", started.__file__, "--serve", str(path)]
    with subprocess.Popen(serve, stdin=subprocess.PIPE) as server:
        command = [sys.executable, "-IS", started.__file__, str(path), sys.executable]
        command += ["-m", "says"]
        _wait(server, path.exists)
        with subprocess.Popen([*command, "jax"], stdin=subprocess.PIPE, **says) as running:
            _wait(running, (tmp_path / "begun").exists)
            server.stdin.close()
            _wait(running, lambda: not path.exists())
            running.communicate("given")
        assert running.returncode == 1  # It has the libraries.
        assert server.wait(timeout=60) == 0
    assert subprocess.run([*command, "jax"], input="", check=False, **says).returncode == 0
