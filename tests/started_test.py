"""Commands that a server starts are as those that Python starts."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support import started

SAYS = """
import os, sys
print(__name__, sys.argv[1:], sys.stdin.read(), os.getcwd(), os.environ.get("RANK"))
print("complaint", file=sys.stderr)
if sys.argv[1] == "raise":
    raise KeyError("gone")
if sys.argv[1] == "die":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "wait":
    open("waits", "w").close()
    while True:
        pass
sys.exit("jax" in sys.modules if sys.argv[1] == "jax" else int(sys.argv[1]))
"""


@pytest.fixture
def says(tmp_path):
    (tmp_path / "says.py").write_text(SAYS)
    return {"cwd": tmp_path, "text": True, "env": os.environ | {"RANK": "3"}}


def _run(says, *arguments, python=None):
    command = [*(python or started.python()), "-m", "says", *arguments]
    return subprocess.run(command, input="given", capture_output=True, check=False, **says)


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
        while not (tmp_path / "waits").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_libraries_are_there_but_for_variables_that_their_import_reads(says):
    assert _run(says, "jax").returncode == 1
    says["env"] |= {"JAX_ENABLE_X64": "1"}
    assert _run(says, "jax").returncode == 0
