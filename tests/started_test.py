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


def test_libraries_are_there_but_for_variables_that_their_import_reads_and_while_there_is_a_server(
    says, tmp_path
):
    """When the worker that started it ends, another worker's commands lose nothing."""
    path = tmp_path / "jax"
    serve = [sys.executable, "-P", started.__file__, "--serve", str(path)]
    begin = [sys.executable, "-IS", started.__file__, str(path), sys.executable]
    with subprocess.Popen(serve, stdin=subprocess.PIPE) as server:
        _wait(server, path.exists)
        other = says | {"env": says["env"] | {"JAX_ENABLE_X64": "1"}}
        assert _run(other, "jax", python=begin).returncode == 0
        (tmp_path / "begun").unlink()
        command = [*begin, "-m", "says", "jax"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, **says) as running:
            _wait(running, (tmp_path / "begun").exists)
            server.stdin.close()
            _wait(running, lambda: not path.exists())
            running.communicate("given")
        assert running.returncode == 1  # It has the libraries.
        assert server.wait(timeout=60) == 0
    assert _run(says, "jax", python=begin).returncode == 0
