"""Frozen dataclasses whose fields are flags: defined, read and checked in one place. absl only.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options:
        steps: int = option(1000, "training steps", low=1)

        def __post_init__(self):
            check(self)

A command calls `define_flags(Options)` where it starts and `from_flags(Options)` once they are
parsed; everything else gets the object.
"""

import dataclasses
import math
import sys
from typing import Any

from absl import flags

from gvvad_jax.command import UserError


def option(default: Any, help: str, *, free: bool = False, **checks: Any) -> Any:
    """A field that becomes a flag.

    Args:
      default: of the flag.
      help: of the flag.
      free: work that was begun may go on with another value: it changes who does it and how fast,
        or is decided anew each time, but not what is there already.
      **checks: choices, low, high (both inclusive).
    """
    return dataclasses.field(default=default, metadata={"help": help, "free": free, **checks})


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
