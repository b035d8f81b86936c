"""Names of live sources on a command line, and how they are called without their secrets."""

import dataclasses
import os
import re
import stat
import urllib.parse
from collections.abc import Sequence

from gvvad_jax.command import UserError

# Protocols of cameras that are opened, by the kind of source.
_SCHEMES = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)=(?P<address>.+)", re.DOTALL)
_FOREIGN = re.compile(r"[^A-Za-z0-9.-]+")
_MOST_LETTERS = 80
_SECRETS = re.compile("pass|pwd|user|login|auth|token|key|secret", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Address:
    """A live source.

    Attributes:
      name: what events, files, topics and messages call it; letters, digits, ".", "-" and "_".
      kind: rtsp, http, device, or pipe for standard input and named pipes.
      location: what FFmpeg opens. It may hold a user, a password or a key: never print it.
    """

    name: str
    kind: str
    location: str = dataclasses.field(repr=False)


def is_live(argument: str) -> bool:
    """Tells whether an argument is a URL, a device, a pipe or standard input rather than a file.

    Args:
      argument: ADDRESS, or NAME=ADDRESS. A number is a camera's, unless a file or folder is called
        so, and "-" is standard input.
    """
    address = _split(argument)[1]
    if address == "-" or _URL.match(address):
        return True
    if re.fullmatch(r"[0-9]{1,3}", address) and not os.path.lexists(address):
        return True
    try:
        mode = os.stat(address).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _split(argument: str) -> tuple[str, str]:
    """Returns the name that somebody gave, or "", and the address."""
    named = _NAMED.fullmatch(argument)
    # A file may have a "=" in its name.
    if named and not os.path.lexists(argument):
        return named["name"], named["address"]
    return "", argument


def parse(arguments: Sequence[str]) -> list[Address]:
    """Returns the live sources of a command line.

    Without NAME=, a source is called after its host and path, without the user, the password and
    what follows a "?", where cameras have keys; and without a path that seems to hold such.

    Raises:
      UserError: a protocol that isn't opened, an address without a host, or a name given twice.
    """
    sources: dict[str, Address] = {}
    for argument in arguments:
        given, address = _split(argument)
        if address == "-":
            name, kind, location = "stdin", "pipe", "pipe:0"
        elif _URL.match(address):
            name, kind, location = _url(address)
        else:
            location = (
                f"/dev/video{int(address)}" if address.isdecimal() else os.path.abspath(address)
            )
            name = os.path.basename(location)
            is_pipe = os.path.exists(location) and stat.S_ISFIFO(os.stat(location).st_mode)
            kind = "pipe" if is_pipe else "device"
        if given in sources:
            raise UserError(f"{given}: expected each name once, found it twice; give another")
        plain = given or _FOREIGN.sub("_", name).strip("._-")[:_MOST_LETTERS] or "source"
        # Two addresses may differ in what isn't shown.
        unique, number = plain, 2
        while unique in sources:
            unique, number = f"{plain}-{number}", number + 1
        sources[unique] = Address(unique, kind, location)
    if sum(source.location == "pipe:0" for source in sources.values()) > 1:
        raise UserError("-: expected standard input once, found it twice; name it once")
    return list(sources.values())


def redacted(argument: str) -> str:
    """Returns an argument for messages: a URL without user, password and what follows a "?"."""
    given, address = _split(argument)
    if _URL.match(address):
        address = f"{address.partition('://')[0]}://{_host(address) or '...'}"
    return f"{given}={address}" if given else address


def _host(address: str) -> str | None:
    """Returns the host and port of a URL; None where another part may be the host."""
    rest = address.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # A later "@" may follow a password with a "/" in it, or be part of a key.
    return None if "@" in rest[len(authority) :] else authority.rpartition("@")[2]


def _url(address: str) -> tuple[str, str, str]:
    """Returns the name, the kind and the location of a URL."""
    shown = redacted(address)
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    kind = _SCHEMES.get(address.partition(":")[0].lower())
    if kind is None:
        raise UserError(
            f"{shown}: expected {', '.join(_SCHEMES)}, a device or -, found another protocol; "
            "have FFmpeg receive it: ffmpeg -i ADDRESS -c copy -f mpegts - | gvvad watch ... -"
        )
    if not host or not _host(address) or any(ord(letter) <= 32 for letter in address):
        raise UserError(
            f"{shown}: expected a host and, if any, a port, found another address; write special "
            "letters of a password, and any @ but the one before the host, as %XX"
        )
    # Some cameras take user and password in the path.
    path = "" if _SECRETS.search(parts.path) else parts.path
    return f"{host}{f'_{port}' if port else ''}{path}", kind, address
