"""Processes that kill themselves once they have written so much: no test is quick enough to be
sure of killing one in time.

    python -m tests.support.killing PATTERN COUNT MODULE ARGUMENTS
"""

import os
import pathlib
import runpy
import signal
import subprocess
import sys


def die_after(pattern, count=1):
    """Has this process killed when the `count`-th file whose path ends like `pattern` is there."""
    replace, left = os.replace, count

    def replace_and_die(source, target):
        nonlocal left
        replace(source, target)
        left -= pathlib.PurePath(target).match(pattern)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die


def run(command, pattern, count=1, **options):
    """Runs [python, "-m", module, ...] until it is killed so; options as for subprocess.run."""
    python, _, *rest = command
    killed = [python, "-m", "tests.support.killing", pattern, str(count), *rest]
    done = subprocess.run(killed, capture_output=True, text=True, timeout=200, **options)
    assert done.returncode == -signal.SIGKILL, f"no {count} {pattern} came: {done.stderr}"


if __name__ == "__main__":
    pattern, count, module, *arguments = sys.argv[1:]
    die_after(pattern, int(count))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
