"""Processes that do a study's work: each on a core of its own, and none outlives the study."""

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

from gvvad_jax.command import Interrupted, UserError


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a piece of work.

    Attributes:
      value: what the function returned; None where it raised.
      refused: the one line of a UserError or Interrupted; empty where there was none.
    """

    value: Any = None
    refused: str = ""


class Worker:
    """A process that calls functions, one after another; compiled programs stay in it.

    Args:
      log: file that gets what the process prints.
      core: the core that it runs on; None for all.
    """

    def __init__(self, log: pathlib.Path, core: int | None = None):
        # The process inherits this. On one core, a BLAS with a thread for each core of the machine
        # waits for its own threads: choosing lambda took ten times as long.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._log = log
        self._process = context.Process(target=_serve, args=(other, str(log), core), daemon=True)
        self._process.start()
        other.close()

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Starts a call; the function is one of a module."""
        self.connection.send((function, arguments))

    def outcome(self) -> Outcome:
        """Waits for the call that was started.

        Raises:
          Interrupted: the process died.
          RuntimeError: the function raised anything but a UserError or Interrupted.
        """
        try:
            value, refused, fault = self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise Interrupted(
                f"{self._log}: expected a worker's result, found that the process ended with "
                f"{self._process.exitcode}; run the same command again to go on"
            ) from error
        if fault:
            raise RuntimeError(fault)
        return Outcome(value, refused)

    def end(self) -> None:
        """Ends the process, in the middle of a call if need be."""
        self.connection.close()
        self._process.join(1.0)
        self._process.terminate()
        self._process.join()


def _serve(connection: multiprocessing.connection.Connection, log: str, core: int | None) -> None:
    """Calls what it is sent, until the study ends."""
    # An interrupt goes to the study, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if core is not None:
        # Before JAX starts its threads: it starts as many as it sees cores.
        os.sched_setaffinity(0, {core})
        os.environ["OMP_NUM_THREADS"] = "1"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        value, refused, fault = None, "", ""
        try:
            value = function(*arguments)
        except (UserError, Interrupted) as error:
            refused = " ".join(str(error).split())
        except BaseException:
            fault = traceback.format_exc()
        connection.send((value, refused, fault))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
