"""Where messages about events go beside files: a webhook; mqtt.py has the broker.

A sink has a bounded queue and a thread of its own, so that nothing that happens to a receiver ever
stops scoring. While the receiver is away, messages wait; when there are too many, the oldest is
dropped and counted.
"""

import abc
import collections
import json
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from gvvad_jax.command import UserError

# Messages that wait for a receiver, at most; about a megabyte.
MOST_WAITING = 1000
# Seconds until a request is given up, and between attempts: the first pause and the longest.
_TIMEOUT = 10.0
_PAUSES = (1.0, 30.0)
# Seconds that messages which still wait have at the end.
_LAST_SECONDS = 10.0
# HTTP statuses below 500 after which another attempt may succeed.
_TRY_AGAIN = (408, 425, 429)


def pause(attempt: int, first: float, longest: float) -> float:
    """Returns the seconds to wait after the n-th failure in a row, from 0; they double, jittered.

    Without the jitter, all cameras of a site would come back in the same moment.
    """
    return min(longest, first * 2.0 ** min(attempt, 30)) * random.uniform(0.75, 1.0)


class Rejected(Exception):
    """The receiver doesn't want this message, however often it is sent."""


class Sink(abc.ABC):
    """Delivers messages in order, each until it has arrived.

    Args:
      name: what messages to people call it; without secrets.
    """

    def __init__(self, name: str):
        self.name = name
        self._waiting: collections.deque[Mapping[str, Any]] = collections.deque()
        self._changed = threading.Condition()
        self._delivered = self._dropped = 0
        self._busy = False
        self._last_moment: float | None = None  # When the thread gives up, once closed.
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts delivering."""
        self._thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Takes a message, an object of JSON; never waits."""
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1
                self._complain(f"more than {MOST_WAITING} messages wait; the oldest are dropped")
            self._waiting.append(message)
            self._changed.notify_all()

    def counts(self) -> dict[str, int]:
        """Returns how many messages were delivered, dropped, and still wait."""
        with self._changed:
            waiting = len(self._waiting) + self._busy
            return {"delivered": self._delivered, "dropped": self._dropped, "waiting": waiting}

    def close(self, seconds: float = _LAST_SECONDS) -> None:
        """Ends delivering; messages that wait get some more seconds."""
        with self._changed:
            self._last_moment = time.monotonic() + seconds
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds + _TIMEOUT)
        left = self.counts()["waiting"]
        if left:
            self._complain(f"{left} messages were not delivered before the end")

    @abc.abstractmethod
    def _deliver(self, message: Mapping[str, Any]) -> None:
        """Delivers one message.

        Raises:
          Rejected: trying again is of no use.
          Exception: any other; the message is tried again after a pause.
        """

    def _complain(self, text: str) -> None:
        """Prints a warning, once until something else is to be said."""
        if text != self._complaint:
            print(f"warning: {self.name}: {text}", file=sys.stderr, flush=True)
        self._complaint = text

    def _rest(self, seconds: float) -> bool:
        """Waits; returns whether there is time for another attempt."""
        with self._changed:
            end = time.monotonic() + seconds
            while (now := time.monotonic()) < end:
                if self._last_moment is not None and now >= self._last_moment:
                    return False
                until = end if self._last_moment is None else min(end, self._last_moment)
                self._changed.wait(max(0.0, until - now))
        return self._last_moment is None or time.monotonic() < self._last_moment

    def _next(self) -> Mapping[str, Any] | None:
        with self._changed:
            self._busy = False
            while not self._waiting:
                if self._last_moment is not None:
                    return None
                self._changed.wait()
            self._busy = True
            return self._waiting.popleft()

    def _run(self) -> None:
        while (message := self._next()) is not None:
            attempt = 0
            while True:
                try:
                    self._deliver(message)
                    self._delivered += 1
                    if self._complaint:
                        print(f"{self.name}: delivers again", file=sys.stderr, flush=True)
                        self._complaint = ""
                    break
                except Rejected as error:
                    self._dropped += 1
                    self._complain(f"{error}; the message is dropped")
                    break
                except Exception as error:  # Whatever a receiver does, scoring goes on.
                    self._complain(f"{_reason(error)}; messages wait")
                    if not self._rest(pause(attempt, *_PAUSES)):
                        return
                    attempt += 1


def _reason(error: Exception) -> str:
    # Not the error itself: it may quote an address with its secrets.
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code}"
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__


class Webhook(Sink):
    """POSTs each message as JSON to an address.

    Redirections are not followed, because the secret header would go to wherever they lead.

    Args:
      url: http:// or https://.
      header: "Name: value" of one more header; it may be a secret.

    Raises:
      UserError: another kind of address or header.
    """

    def __init__(self, url: str, header: str = ""):
        parts = receiver("--webhook", url, ("http", "https"))
        super().__init__(f"webhook {parts.scheme}://{parts.netloc}")
        self._url = url
        self._headers = {"Content-Type": "application/json", "User-Agent": "gvvad"}
        if header:
            name, colon, value = (part.strip() for part in header.partition(":"))
            # urllib would accept a line break, and with it a header of somebody else's.
            if not colon or not name or not value or any(ord(c) < 32 for c in header):
                raise UserError(
                    "WEBHOOK_HEADER: expected a line NAME: VALUE in the environment, found "
                    "something else; e.g. Authorization: Bearer TOKEN"
                )
            self._headers[name] = value
        self._opener = urllib.request.build_opener(_NoRedirect)

    def _deliver(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as answer:
                answer.read(1 << 16)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in _TRY_AGAIN:
                raise Rejected(f"it answers {error.code}") from error
            raise


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def receiver(flag: str, url: str, schemes: tuple[str, ...]) -> urllib.parse.SplitResult:
    """Returns the parts of a receiver's address.

    Raises:
      UserError: another scheme, no host, a wrong port, or a user or password in it, which would
        stand in the list of processes.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError(
            f"{flag}: expected {' or '.join(f'{scheme}://' for scheme in schemes)} and a host, "
            "found another address; correct it"
        )
    if "@" in parts.netloc:
        raise UserError(
            f"{flag}: expected an address without user and password, which other users of this "
            "machine could read, found one with; set them in the environment (docs/live.md)"
        )
    return parts


def from_environment(url: str) -> Webhook:
    """Returns the webhook of an address, with the header WEBHOOK_HEADER of the environment."""
    return Webhook(url, os.environ.get("WEBHOOK_HEADER", ""))
