"""How every command starts and ends, and the dataclasses whose fields are its flags. absl only.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options:
        steps: int = option(1000, "Training steps.", low=1)

        def __post_init__(self):
            check(self)

    if __name__ == "__main__":
        define_flags(Options)
        run_command(main, usage=__doc__)

and `from_flags(Options)` in `main`; everything else gets the object. Exit status: 0 on success and
on --help, 2 for a user's mistake (one line on standard error, no traceback), 130 when interrupted
(one line), 141 when the reader of standard output left before the end, 1 on anything else.
"""

import dataclasses
import errno
import functools
import math
import numbers
import os
import pathlib
import re
import select
import signal
import sys
import textwrap
import threading
import traceback
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags

from gvvad_jax import flagfiles

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Dataclass = TypeVar("Dataclass", bound="DataclassInstance")

# What to do about an error of the operating system that isn't a fault of the program.
_REMEDIES = {
    errno.ENOSPC: "free some space or choose a folder on another disk",
    errno.EDQUOT: "free some space or choose a folder on another disk",
    errno.EACCES: "change its permissions or choose another",
    errno.EPERM: "change its permissions or choose another",
    errno.EROFS: "choose one that isn't mounted read-only",
    errno.EEXIST: "choose another",
    errno.ENOTDIR: "choose another",
    errno.EISDIR: "choose another",
}
# The extra of pyproject.toml that installs a module.
_EXTRAS = {
    "av": "video",
    "h5py": "features",
    "flatbuffers": "export",
    "gradio": "app",
    "huggingface_hub": "share",
    "jinja2": "pages",
    "matplotlib": "plots",
    "paho": "live",
    "cv2": "video",
    "onnx": "export",
    "onnxruntime": "export",
    "sklearn": "dev",
    "fastapi": "app",
    "uvicorn": "app",
} | dict.fromkeys(("torch", "transformers", "diffusers", "pydantic", "openai", "PIL"), "generation")
_INTERRUPTED = "interrupted: finished work is kept; run the same command again to go on from there"
_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")


class UserError(ValueError):
    """A user's mistake: bad input, a bad flag, a missing file.

    The message is one line that names the file or flag, what was expected, what was found, and what
    to do about it.
    """


class Interrupted(RuntimeError):
    """A run that ended early for a reason that is neither a mistake nor a fault: exit status 1."""


def run_command(
    main: Callable[[Sequence[str]], None],
    *,
    usage: str | None,
    positional: int | None = 0,
    argv: Sequence[str] | None = None,
) -> None:
    """Parses the flags, calls `main(arguments)` and exits with the project's exit statuses.

    Args:
      main: the command; gets the arguments without dashes and does the heavy imports.
      usage: the text that --help shows above the flags, usually the module's docstring.
      positional: the number of arguments without dashes that the command takes; None for any.
      argv: the command line (default: `sys.argv`).
    """
    argv = list(sys.argv if argv is None else argv)
    if any(argument in _HELP for argument in argv[1:]):
        print_help(help_text(usage or ""))
        sys.exit(0)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        main(_parse(argv, positional))
        sys.stdout.flush()
    except (UserError, Interrupted) as error:
        status = 2 if isinstance(error, UserError) else 1
        _end(status, f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        _end(130, _INTERRUPTED)
    except Exception as error:
        if _interrupted.is_set():
            _end(130, _INTERRUPTED)
        if isinstance(error, BrokenPipeError) and _reader_left():
            sys.exit(141)
        if refused := _refused(error):
            _end(2, f"error: {refused}")
        if not _is_one_of_several():
            raise
        _end(1, traceback.format_exc())


def refuse_flags(mode: str, names: Sequence[str]) -> None:
    """Raises UserError for a flag that was given although a command's mode ignores it."""
    for name in names:
        if flags.FLAGS[name].present and flags.FLAGS[name].value:
            raise UserError(
                f"--{name}: expected without {mode}, found both; it would have no effect: leave "
                "one out"
            )


def on_command_line(name: str) -> bool:
    """Returns whether a flag was given on the command line itself, and not in a flagfile."""
    given = (argument.lstrip("-").partition("=")[0] for argument in sys.argv[1:]
             if argument.startswith("-"))  # fmt: skip
    return any(each.rpartition(".")[2] in (name, f"no{name}") for each in given)


def print_help(text: str) -> None:
    """Prints a text, of which `| head` may read the first lines only."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        if not _reader_left():
            raise


def _reader_left() -> bool:
    """Returns whether nobody reads standard output any more, and if so silences it."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    left = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if left:
        # Otherwise Python would report the same error again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left


def _refused(error: Exception) -> str | None:
    """Returns one line for an error of the machine; None for all others, which may be faults."""
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        extra = _EXTRAS[error.name]
        return f"expected the module {error.name}, found none; pip install '.[{extra}]'"
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms and _raised_in(error) == "xla_bridge":
        return (
            f"JAX_PLATFORMS={platforms}: expected a platform that JAX finds on this machine, found "
            "none; unset the variable, or set JAX_PLATFORMS=cpu"
        )
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return None
    if not error.filename and error.errno != errno.ENOSPC:
        return None
    return (
        f"cannot read or write {error.filename or 'the disk'}: {error.strerror}; "
        f"{_REMEDIES[error.errno]}"
    )


# Whether an interrupt (Ctrl-C) has arrived.
_interrupted = threading.Event()


def _interrupt(_: int, frame: types.FrameType | None) -> None:
    """Handles an interrupt: raises KeyboardInterrupt, but not in the middle of an import.

    Extensions in C turn an interrupt of their import into other errors, or abort the process.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    _interrupted.set()
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raises KeyboardInterrupt again if an interrupt was lost, as in Python's finalisers."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _raised_in(error: Exception) -> str:
    """Returns the name of the file that raised an error, without .py."""
    frames = traceback.extract_tb(error.__traceback__)
    return pathlib.Path(frames[-1].filename).stem if frames else ""


def _end(status: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    if _is_one_of_several():
        # At a normal exit JAX would wait for the other processes, which wait for this one.
        os._exit(status)
    sys.exit(status)


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _parse(argv: list[str], positional: int | None) -> list[str]:
    try:
        arguments = flags.FLAGS(flagfiles.expand(argv, _this_command()))[1:]
    except flagfiles.FlagError as error:
        raise UserError(str(error)) from error
    except flags.Error as error:
        raise UserError(_explain(str(error))) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--flagfile: {error}; --help lists the flags") from error
    for name in filter(on_command_line, sorted(_SET_HERE)):
        raise UserError(
            f"--{name}: expected none, because this command sets it itself, found one; leave it out"
        )
    if positional is not None and len(arguments) != positional:
        wanted = f"{positional or 'no'} argument{'s' * (positional != 1)} without dashes"
        raise UserError(
            f"expected {wanted}, found {' '.join(arguments) or 'none'}; flags are --name=value, in "
            "a flagfile too, and --help lists them"
        )
    return arguments


def _explain(problem: str) -> str:
    """Returns what absl says of a flag's value in the words of all other errors."""
    match = re.fullmatch(r"flag --(\w+)=(.*?): (.*)", problem, re.S)
    if not match:
        return f"{problem}; --help lists the flags"
    name, value, why = match.groups()
    for pattern, expected in (
        (r"invalid literal for int\(\).*", "a whole number"),
        (r"could not convert string to float.*", "a number"),
        (r"\('Non-boolean argument.*", "true or false"),
        (r"value should be one of <(.*)>", r"one of \1"),
        (r"\S+ is not (.*)", r"\1"),
    ):
        if found := re.fullmatch(pattern, why, re.S):
            expected = found.expand(expected).replace("|", ", ")
            return f"--{name}: expected {expected}, found {value!r}; correct the flag"
    return f"{problem}; --help lists the flags"


def _this_command() -> str:
    """The module that runs as a command, e.g. "generation.encode"; empty for any other program."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else ""
    return name if name in flagfiles.flag_table() else ""


def option(default: Any, help: str, *, group: str = "", free: bool = False, **checks: Any) -> Any:
    """Declares a dataclass field that becomes a flag.

    Args:
      default: the flag's default.
      help: the flag's help, a sentence.
      group: the title that --help lists the flag under; see `group`.
      free: whether resumed work may have another value: one that says who does the work and how
        fast, or what is decided anew each time, and changes nothing that exists already.
      **checks: choices, low, high (both inclusive). A number or a word has one word as
        `choices`.
    """
    metadata = {"help": help, "group": group, "free": free, **checks}
    return dataclasses.field(default=default, metadata=metadata)


def group(title: str) -> Callable[..., Any]:
    """Returns an `option` whose flags --help lists under a title, e.g. "Data"."""
    return functools.partial(option, group=title)


def flag_of(cls: type, name: str) -> Any:
    """Returns a field that is the flag of this name of another dataclass."""
    there = {field.name: field for field in dataclasses.fields(cls)}[name]
    return dataclasses.field(default=there.default, metadata=there.metadata)


def settled(options: Any) -> dict[str, Any]:
    """Returns the values that must not change when work is resumed, by field."""
    fields = dataclasses.fields(options)
    return {f.name: getattr(options, f.name) for f in fields if not f.metadata.get("free")}


def check(options: Any) -> None:
    """Raises UserError on the first field of another type than declared, or out of its range.

    A path in a field of text becomes text.
    """
    for field in dataclasses.fields(options):
        if "help" in field.metadata:
            value = getattr(options, field.name)
            if field.type is str and isinstance(value, os.PathLike):
                object.__setattr__(options, field.name, os.fspath(value))
            _check(field, getattr(options, field.name))


def _check(field: dataclasses.Field, value: Any) -> None:
    choices, low, high = (field.metadata.get(key) for key in ("choices", "low", "high"))
    kind = field.type
    if not _is_of(value, kind):
        expected = _TYPE_NAMES[kind]
    elif value is None:
        return
    elif isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    elif choices is not None and (isinstance(value, str) or low is None) and value not in choices:
        expected = f"one of {', '.join(choices)}" if low is None else f"{choices[0]} or a number"
    elif isinstance(value, str):
        return
    elif low is not None and value < low:
        expected = f"at least {low}"
    elif high is not None and value > high:
        expected = f"at most {high}"
    else:
        return
    raise UserError(f"--{field.name}: expected {expected}, found {value!r}; correct the flag")


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, tuple):
        return kind == tuple[int, ...] and all(isinstance(item, numbers.Integral) for item in value)
    return isinstance(value, _TYPES[kind])


class _NumberOrWord(flags.ArgumentParser):
    """Parses a number, or a word that isn't one."""

    syntactic_help = "a number or a word"

    def parse(self, argument: Any) -> Any:
        try:
            return float(argument)
        except ValueError:
            return argument

    def flag_type(self) -> str:
        return "number or word"


def _define_number_or_word(name: str, default: Any, help: str, **settings: Any) -> None:
    serializer: flags.ArgumentSerializer[Any] = flags.ArgumentSerializer()
    flags.DEFINE(_NumberOrWord(), name, default, help, serializer=serializer, **settings)


# By a field's type: how its flag is defined, the values it takes, and their name in messages.
_DEFINERS: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    int | None: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    float | None: flags.DEFINE_float,
    float | str | None: _define_number_or_word,
    str: flags.DEFINE_string,
}
_TYPES: dict[Any, Any] = {
    bool: bool,
    int: numbers.Integral,
    int | None: numbers.Integral | None,
    float: numbers.Real,
    float | None: numbers.Real | None,
    float | str | None: numbers.Real | str | None,
    str: str,
    tuple[int, ...]: tuple,
}
_TYPE_NAMES: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    int | None: "a whole number or None",
    float: "a number",
    float | None: "a number or None",
    float | str | None: "a number, a word or None",
    str: "a text",
    tuple[int, ...]: "a tuple of whole numbers, e.g. (64, 16)",
}


def define_flags(*classes: type, set_here: Collection[str] = ()) -> None:
    """Defines a flag for each field, under the field's name, as a flag of the command itself.

    A field that several classes have, the same in all of them, is one flag.

    Args:
      *classes: the dataclasses.
      set_here: fields that the command sets itself. Their flags may stand in a flagfile that
        serves other commands too; --help doesn't list them, and the command line can't have them.
    """
    _SET_HERE.update(set_here)
    fields: dict[str, dataclasses.Field] = {}
    for field in (field for cls in classes for field in dataclasses.fields(cls)):
        other = fields.setdefault(field.name, field)
        same = (other.type, other.default, other.metadata) == (
            field.type, field.default, field.metadata,
        )  # fmt: skip
        assert same, f"two flags {field.name}"
    for field in fields.values():
        text = field.metadata["help"]
        if field.type == tuple[int, ...]:
            default_items: Any = field.default
            default = ",".join(map(str, default_items))
            flags.DEFINE_list(field.name, default, text, module_name=sys.argv[0])
        else:
            _DEFINERS[field.type](field.name, field.default, text, module_name=sys.argv[0])
        _METADATA[field.name] = field.metadata


# Of the flags that `define_flags` defined, by name: their group and bounds.
_METADATA: dict[str, Mapping[str, Any]] = {}
_SET_HERE: set[str] = set()
# What --help calls a module that runs as a command, where that isn't `python -m MODULE`.
COMMAND_NAMES: dict[str, str] = {}


def help_text(usage: str) -> str:
    """Returns a command's help: its usage, then its flags under the titles of their groups."""
    by_group: dict[str, list[flags.Flag]] = {}
    # The command's own flags: absl, chex and orbax have some of theirs.
    for flag in flags.FLAGS.flags_by_module_dict().get(sys.argv[0], ()):
        title = _METADATA.get(flag.name, {}).get("group") or "Command"
        if flag.name not in _SET_HERE:
            by_group.setdefault(title, []).append(flag)
    named = re.sub(r"python -m ([\w.]*\w)", lambda m: COMMAND_NAMES.get(m[1], m[0]), usage)
    lines = [named.strip(), ""]
    for title, members in by_group.items():
        lines += [f"{title}:", *map(_help_of, members), ""]
    lines.append("Any of these may stand in a file, one a line, given as --flagfile=PATH.")
    return "\n".join(lines)


def _help_of(flag: flags.Flag) -> str:
    metadata = _METADATA.get(flag.name, {})
    choices = metadata.get("choices") or getattr(flag.parser, "enum_values", None)
    low = metadata.get("low", getattr(flag.parser, "lower_bound", None))
    high = metadata.get("high", getattr(flag.parser, "upper_bound", None))
    facts = [f"one of {', '.join(filter(None, choices))}"] if choices else []
    if choices and low is not None:
        facts = [f"{choices[0]} or a number"]
    if low is not None and high is not None:
        facts.append(f"{_short(low)} to {_short(high)}")
    elif low is not None:
        facts.append(f"at least {_short(low)}")
    elif high is not None:
        facts.append(f"at most {_short(high)}")
    # What an empty default means stands in the help.
    if default := (flag.default_as_str or "").strip("'[]"):
        facts.append(f"default: {default}")
    # absl puts the choices before a help and says after it that a flag may be repeated.
    help = re.sub(r"^<[^<>]*\|[^<>]*>: |;\s+repeat this option.*", "", flag.help)
    text = help + (f" ({'; '.join(facts)})" if facts else "")
    wrapped = textwrap.wrap(text, 92, break_on_hyphens=False)
    return "\n".join([f"  --{flag.name}:", *(f"      {line}" for line in wrapped)])


def _short(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def from_flags(cls: type[Dataclass]) -> Dataclass:
    """Returns the parsed flags as an object; raises UserError on a value out of range."""
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
    """Returns the object as the text of a flagfile that gives it back."""
    lines = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None:
            continue
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        lines.append(f"--{field.name}={str(value).lower() if isinstance(value, bool) else value}")
    return "\n".join(lines) + "\n"
