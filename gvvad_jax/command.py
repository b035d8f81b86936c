"""How every command of the project starts and ends: flags in, exit status out.

Exit status 0 on success and on --help, 2 on a user's mistake (one line on standard error, no
traceback), 1 on anything else.
"""

import dataclasses
import errno
import functools
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

# What the machine refuses, and no fault of ours leads to.
_REMEDIES = {
    errno.ENOSPC: "free some space, or give a place with more",
    errno.EDQUOT: "free some space, or give a place with more",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EROFS: "name one that isn't mounted read-only",
    errno.EEXIST: "name another",
    errno.ENOTDIR: "name another",
    errno.EISDIR: "name another",
}
# Of pyproject.toml, by the module that isn't there without it.
_EXTRAS = {"av": "video", "jinja2": "pages", "cv2": "video", "sklearn": "dev"} | dict.fromkeys(
    ("torch", "transformers", "diffusers", "pydantic", "openai"), "generation"
)
_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")


class UserError(ValueError):
    """A mistake of the user's: bad input, a bad flag, a missing file.

    The message is one line that names the file (or flag), what was expected, what was found and
    the remedy.
    """


class Interrupted(RuntimeError):
    """An end that isn't the user's mistake and needs no traceback: one line, exit status 1."""


def run_command(
    main: Callable[[Sequence[str]], None],
    *,
    usage: str,
    positional: int = 0,
    argv: Sequence[str] | None = None,
) -> None:
    """Parses the flags, calls `main(arguments)` and exits with the project's exit statuses.

    Args:
      main: called with the arguments that are no flags; it does the heavy imports.
      usage: shown by --help above the flags, usually the module's docstring.
      positional: how many arguments without dashes the command takes.
      argv: the command line, `sys.argv` unless told.
    """
    argv = list(sys.argv if argv is None else argv)
    if any(argument in _HELP for argument in argv[1:]):
        print(f"{usage.strip()}\n\nFlags:\n{flags.FLAGS.module_help('__main__')}")
        sys.exit(0)
    try:
        arguments = _parse(argv, positional)
        main(arguments)
    except (UserError, Interrupted) as error:
        status = 2 if isinstance(error, UserError) else 1
        _end(status, f"error: {' '.join(str(error).split())}")
    except Exception as error:
        if refused := _refused(error):
            _end(2, f"error: {refused}")
        if not _is_one_of_several():
            raise
        _end(1, traceback.format_exc())


def refuse_flags(mode: str, names: Sequence[str]) -> None:
    """Raises UserError for a flag that was given and that a command's mode doesn't take."""
    for name in names:
        if flags.FLAGS[name].present and flags.FLAGS[name].value:
            raise UserError(
                f"--{name}: expected without {mode}, found both; it would have no effect: leave "
                "one out"
            )


def _refused(error: Exception) -> str | None:
    """One line for what the machine refuses; None for all else, which may be a fault of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        extra = _EXTRAS[error.name]
        return f"expected the module {error.name}, found none; pip install '.[{extra}]'"
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return None
    if not error.filename and error.errno != errno.ENOSPC:
        return None
    return (
        f"{error.filename or 'the disk'}: expected a path that can be read or written as asked, "
        f"found otherwise ({error.strerror}); {_REMEDIES[error.errno]}"
    )


def _end(status: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    if _is_one_of_several():
        # At a normal exit JAX would wait for the others, who wait for this one.
        os._exit(status)
    sys.exit(status)


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _parse(argv: list[str], positional: int) -> list[str]:
    try:
        arguments = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        raise UserError(f"{error}; --help lists the flags") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--flagfile: {error}; --help lists the flags") from error
    if len(arguments) != positional:
        raise UserError(
            f"expected {positional} arguments without dashes, found {arguments}; "
            "flags are --name=value, in a flagfile too"
        )
    return arguments


def option(default: Any, help: str, *, group: str = "", free: bool = False, **checks: Any) -> Any:
    """A field that becomes a flag.

    Args:
      default: of the flag.
      help: of the flag.
      group: the title that --help lists the flag under; see `group`.
      free: work that was begun may go on with another value: it changes who does it and how fast,
        or is decided anew each time, but not what is there already.
      **checks: choices, low, high (both inclusive).
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "group": group, "free": free, **checks}
    )


def group(title: str) -> Callable[..., Any]:
    """Returns an `option` whose flags --help lists under a title, e.g. "Data"."""
    return functools.partial(option, group=title)


def settled(options: Any) -> dict[str, Any]:
    """The values that work that was begun can't go on without."""
    fields = dataclasses.fields(options)
    return {f.name: getattr(options, f.name) for f in fields if not f.metadata.get("free")}


def check(options: Any) -> None:
    """Raises UserError, by the flag's name, on the first value out of its range."""
    for field in dataclasses.fields(options):
        if "help" in field.metadata:
            _check(field, getattr(options, field.name))


def _check(field: dataclasses.Field, value: Any) -> None:
    choices, low, high = (field.metadata.get(key) for key in ("choices", "low", "high"))
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    elif choices is not None and value not in choices:
        expected = f"one of {', '.join(choices)}"
    elif low is not None and value < low:
        expected = f"at least {low}"
    elif high is not None and value > high:
        expected = f"at most {high}"
    else:
        return
    raise UserError(f"--{field.name}: expected {expected}, found {value!r}; correct the flag")


_DEFINERS = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    int | None: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    float | None: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define_flags(*classes: type) -> None:
    """Defines one flag a field, under the field's name, as the command's own: --help lists it.

    A field that several classes have, the same in all, is one flag.
    """
    defined = {}
    for field in (field for cls in classes for field in dataclasses.fields(cls)):
        meaning = (field.type, field.default, field.metadata)
        assert defined.setdefault(field.name, meaning) == meaning, f"two flags {field.name}"
    for field in {f.name: f for cls in classes for f in dataclasses.fields(cls)}.values():
        choices = field.metadata.get("choices")
        text = field.metadata["help"] + (f" ({'|'.join(choices)})" if choices else "")
        if field.type == tuple[int, ...]:
            default = ",".join(map(str, field.default))
            flags.DEFINE_list(field.name, default, text, module_name=sys.argv[0])
        else:
            _DEFINERS[field.type](field.name, field.default, text, module_name=sys.argv[0])


def from_flags(cls: type) -> Any:
    """The parsed flags as an object of the class; raises UserError on a value out of range."""
    values = {}
    for field in dataclasses.fields(cls):
        value = flags.FLAGS[field.name].value
        values[field.name] = _integers(field, value) if isinstance(value, list) else value
    return cls(**values)


def _integers(field: dataclasses.Field, items: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(item) for item in items if item)
    except ValueError as error:
        raise UserError(
            f"--{field.name}: expected whole numbers separated by commas, found {','.join(items)!r}"
        ) from error


def to_flagfile(options: Any) -> str:
    """The object as a flagfile that gives it back."""
    lines = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None:
            continue
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        lines.append(f"--{field.name}={str(value).lower() if isinstance(value, bool) else value}")
    return "\n".join(lines) + "\n"
