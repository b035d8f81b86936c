"""One flagfile for every command: a flag of another command of the project is skipped in it.

A line `--encode.out=DIR` sets `--out` for `generation.encode` alone. Which command has which flags
stands in flags.json, so that nothing of the other commands is imported; a test holds that it is
what the commands define, and `python -m tests.support.flag_table` writes it anew.
"""

import functools
import importlib.resources
import json
import os
from collections.abc import Sequence

from absl import flags


class FlagError(ValueError):
    """A flag that no command has, or that another has, or a flagfile that can't be read."""


@functools.cache
def flag_table() -> dict[str, list[str]]:
    """The flags' names by command, e.g. "generation.encode"."""
    path = importlib.resources.files("gvvad_jax") / "flags.json"
    return json.loads(path.read_text(encoding="utf-8"))


def short_name(command: str) -> str:
    """A command's name before the dot of `--encode.out`: its module's last part."""
    return command.rpartition(".")[2]


def expand(argv: Sequence[str], command: str) -> list[str]:
    """Returns the command line with its flagfiles read and with this command's flags alone.

    Args:
      argv: the command line, the program first.
      command: this command's module, e.g. "generation.encode"; empty for a program that is none of
        the project's commands, whose flagfiles are read as they are.

    Raises:
      FlagError: a flag that this command hasn't on the command line, or that no command has
        in a flagfile; or a flagfile that can't be read or leads to itself.
    """
    arguments = [argv[0]]
    rest = list(argv[1:])
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*arguments, argument, *rest]
        name, equals, value = _parts(argument)
        if name == "flagfile":
            path = value if equals else (rest.pop(0) if rest else "")
            for line in _flags_in(path, ()):
                arguments += _of_command(line, command, path)
        elif name:
            arguments += _of_command(argument, command, "")
        else:
            arguments.append(argument)
    return arguments


def _flags_in(path: str, within: tuple[str, ...]) -> list[str]:
    """Returns a flagfile's flags, those of flagfiles that it names in their place.

    These are looked for beside it, else from the current folder.
    """
    if path in within:
        raise FlagError(f"{path}: expected flags, found --flagfile={path}, itself; remove the line")
    try:
        # A pipe would be waited for.
        if not os.path.isfile(path):
            raise FlagError(f"--flagfile={path}: expected a file of flags, found none; give one")
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or f"no UTF-8 ({error})"
        raise FlagError(f"{path}: expected a flagfile, found {problem}; correct it") from error
    found: list[str] = []
    for line in lines:
        name, _, value = _parts(line)
        if name == "flagfile":
            beside = os.path.join(os.path.dirname(path), value)
            found += _flags_in(beside if os.path.isfile(beside) else value, (*within, path))
        elif line and not line.startswith(("#", "//")):
            found.append(line)
    return found


def _parts(argument: str) -> tuple[str, str, str]:
    """(name, "=" or nothing, value) of a flag; an empty name for what is none."""
    if not argument.startswith("-"):
        return "", "", ""
    name, equals, value = argument.lstrip("-").partition("=")
    return name, equals, value


def _of_command(argument: str, command: str, path: str) -> list[str]:
    """The argument without its prefix, or nothing where it is for another command.

    Args:
      argument: a flag.
      command: this command's module.
      path: the flagfile that holds the argument; empty for the command line.
    """
    name, equals, value = _parts(argument)
    if not name or not command:
        return [argument]
    prefix, dot, bare = name.rpartition(".")
    if _is_defined(name):
        return [argument]
    owners = [other for other, names in flag_table().items() if _names(bare) & set(names)]
    if dot:
        owners = [other for other in owners if short_name(other) == prefix]
    if command in owners:
        return [f"--{bare}{equals}{value}"]
    if owners and path:
        return []
    where = f"{path}: " if path else ""
    if owners:
        raise FlagError(
            f"{where}--{name}: expected a flag of this command, found one of "
            f"{', '.join(owners[:3])}; leave it out, or put it into a flagfile, where other "
            "commands' flags are skipped"
        )
    similar = flags._helpers.get_flag_suggestions(bare, list(flags.FLAGS))
    remedy = f"did you mean --{similar[0]}?" if similar else "--help lists the flags"
    raise FlagError(f"{where}--{name}: expected a flag, found an unknown one; {remedy}")


def _is_defined(name: str) -> bool:
    return any(each in flags.FLAGS for each in _names(name))


def _names(name: str) -> set[str]:
    """The flags that an argument may stand for: --noema stands for --ema."""
    return {name, name.removeprefix("no")}
