"""How every command of the project starts and ends: flags in, exit status out.

Exit status 0 on success and on --help, 2 on a user's mistake (one line on standard error, no
traceback), 1 on anything else.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags

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
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if not error.filename:
            raise
        _end(
            2,
            f"error: {error.filename}: expected a place that can be written, found otherwise "
            f"({error.strerror}); give another --out",
        )
    except (UserError, Interrupted) as error:
        status = 2 if isinstance(error, UserError) else 1
        _end(status, f"error: {' '.join(str(error).split())}")
    except Exception:
        if not _is_one_of_several():
            raise
        _end(1, traceback.format_exc())


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
