"""Processes that kill themselves once they have written so much: no test is quick enough to be
sure of killing one in time.

    python -m tests.support.killing PATTERN COUNT MODULE ARGUMENTS
    python -m tests.support.killing --changes=FOLDER COUNT MODULE ARGUMENTS
"""

import atexit
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


# What Python reports before it changes a file system, by the place of the path in its arguments.
_CHANGES = {"open": 0, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1}


def die_at_change(folder, count):
    """Has this process killed just before the `count`-th change below a folder.

    With a count of 0 it lives, and prints the number of changes as its last line of errors.
    """
    left, changes = count, 0

    def audit(event, arguments):
        nonlocal left, changes
        if event not in _CHANGES or not str(arguments[_CHANGES[event]]).startswith(folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        changes += 1
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    if not count:
        atexit.register(lambda: print(f"changes: {changes}", file=sys.stderr))
    sys.addaudithook(audit)


def run(command, pattern, count=1, **options):
    """Runs [python, "-m", module, ...] until it is killed so; options as for subprocess.run."""
    start = command.index("-m") + 1
    killed = [*command[:start], "tests.support.killing", pattern, str(count), *command[start:]]
    done = subprocess.run(killed, capture_output=True, text=True, timeout=200, **options)
    assert done.returncode == -signal.SIGKILL, f"no {count} {pattern} came: {done.stderr}"


if __name__ == "__main__":
    pattern, count, module, *arguments = sys.argv[1:]
    if pattern.startswith("--changes="):
        die_at_change(pattern.removeprefix("--changes="), int(count))
    else:
        die_after(pattern, int(count))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
