"""How every command of the project starts and ends: flags in, exit status out.

Exit status 0 on success and on --help, 2 on a user's mistake (one line on standard error, no
traceback), 1 on anything else.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence

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
_EXTRAS = {"av": "video", "cv2": "video", "sklearn": "dev"} | dict.fromkeys(
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
