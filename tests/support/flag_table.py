"""Writes gvvad_jax/flags.json: which flags each command has.

python -m tests.support.flag_table
"""

import json
import pathlib
import runpy
import sys

from absl import flags

from gvvad_jax import command
from gvvad_jax.__main__ import MODULES

PATH = pathlib.Path(command.__file__).with_name("flags.json")


def defined_flags(module: str) -> dict[str, flags.Flag]:
    """The flags that a command defines for itself, by name."""
    before = set(flags.FLAGS)
    run_command, argv = command.run_command, sys.argv
    command.run_command, sys.argv = lambda *_, **__: None, [module]
    command._METADATA.clear()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        command.run_command, sys.argv = run_command, argv
    own = {
        flag.name: flag
        for owner, members in flags.FLAGS.flags_by_module_dict().items()
        for flag in members
        if owner.endswith(".py") and flag.name not in before
    }
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    return own


def table() -> dict[str, list[str]]:
    """The flags' names by command."""
    return {module: sorted(defined_flags(module)) for module in MODULES}


if __name__ == "__main__":
    PATH.write_text(json.dumps(table(), indent=1) + "\n")
