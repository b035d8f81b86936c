"""Starts commands without waiting for their imports: a server that has imported the libraries
forks a process for each.

    subprocess.run([*python(), "-m", "gvvad_jax.train", ...], ...)
    subprocess.run([*python("torch"), "-m", "generation.encode", "--encoder=clip-l14", ...], ...)

is the same as with `sys.executable` for whoever starts it: arguments, folder, environment, streams,
exit status, signals. The project's modules are imported by the command itself. Where a process is
killed from outside, or what it imports is tested, start Python itself, as this does, too, for
variables that libraries read when they are imported.
"""

import array
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import time

# What commands import that isn't ours and takes long.
_LIBRARIES = {
    "jax": (
        "jax", "flax.linen", "optax", "orbax.checkpoint", "chex", "msgspec", "scipy.special",
        "tqdm", "cv2", "av", "PIL.Image", "jinja2",
    ),
    "torch": (
        "torch", "transformers", "transformers.models.clip.modeling_clip",
        "transformers.models.bert.modeling_bert", "transformers.models.git.modeling_git",
        "diffusers", "diffusers.pipelines.cogvideo.pipeline_cogvideox", "openai", "pydantic",
    ),
}  # fmt: skip
# Begin the names of variables that these read when they are imported.
_READ_EARLY = ("DIFFUSERS_", "GVVAD_", "HF_", "HOME", "JAX_", "OMP_", "OPENBLAS_", "TMPDIR",
               "PYTHONHASHSEED", "PYTHONWARNINGS", "TRANSFORMERS_", "XDG_")  # fmt: skip


@functools.cache
def python(libraries="jax"):
    """The beginning of a command line, in the place of Python's path.

    The first one of a session's workers that asks starts the server, which ends with it.

    Args:
      libraries: jax, for commands without models of PyTorch, or torch, for those with them, too.
    """
    path = os.path.join(os.environ["GVVAD_TESTS"], libraries)
    with contextlib.suppress(FileExistsError):
        os.mkdir(f"{path}-starting")
        read, _ = os.pipe()  # The other end closes with this process.
        silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
        server = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", os.path.abspath(__file__), "--serve", path],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, read, 0), *silent],
        )
        os.close(read)
        while not os.path.exists(path) and not os.waitpid(server, os.WNOHANG)[0]:
            time.sleep(0.01)
    return sys.executable, "-IS", os.path.abspath(__file__), path, sys.executable


def _read_early(environment):
    return {name: environment[name] for name in environment if name.startswith(_READ_EARLY)}


# The client, which takes the place of the command: its streams become the command's.


def _client(path, python, arguments):
    passed_on = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    try:
        if arguments[0] != "-m":
            raise ValueError(arguments)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        asked = {"argv": arguments, "cwd": os.getcwd(), "env": dict(os.environ)}
        streams = array.array("i", [0, 1, 2]).tobytes()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)]
        content = json.dumps(asked).encode()
        connection.sendmsg([len(content).to_bytes(8, "big")], rights)
        connection.sendall(content)
        answer = connection.makefile("r")
        pid = int(answer.readline())
    except (OSError, ValueError):
        pid = 0  # No server, or nothing for it.
    for number in passed_on if pid else ():
        signal.signal(number, lambda number, _: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    if not pid:
        os.execv(python, [python, *arguments])
    for number in range(3):
        os.close(number)  # The command alone closes its streams.
    status = int(answer.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


# The server. Only one thread, as it forks.


def serve(path):
    """Serves until the worker that started it has ended, and then until all that runs has.

    Returns in the forked processes alone, with what each is to run.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    environment = dict(os.environ)  # Libraries add their own.
    torch = _LIBRARIES["torch"] if os.path.basename(path) == "torch" else ()
    for name in (*_LIBRARIES["jax"], *torch):
        with contextlib.suppress(ImportError):
            __import__(name)
    gc.freeze()  # Else the first collection of each process copies all that was imported.
    wakeup, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running, watched = {}, {0, wakeup, listener}
    while 0 in watched or running:
        ready, _, _ = select.select([*watched, *running], [], [])
        if 0 in ready:  # The worker's end of the pipe is closed. From now on Python itself starts.
            watched = {wakeup}
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(path)
        if wakeup in ready:
            os.read(wakeup, 4096)
            _report_ended(running)
        for connection in ready:
            if connection in running:  # It sends nothing, so that it has ended.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running[connection], signal.SIGKILL)
        if listener in ready and listener in watched:
            connection, _ = listener.accept()
            try:
                asked, streams = _received(connection)
            except (OSError, ValueError, IndexError):  # It was killed before it had asked.
                connection.close()
                continue
            asked["dropped"] = list(environment.keys() - asked["env"].keys())
            if _read_early(asked["env"]) != _read_early(environment):
                with contextlib.suppress(OSError), connection:
                    connection.sendall(b"0\n")
            elif pid := os.fork():
                running[connection] = pid
                with contextlib.suppress(OSError):  # A client that is killed has closed it.
                    connection.sendall(f"{pid}\n".encode())
            else:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (wakeup, woken):
                    os.close(end)
                for end in (listener, connection, *running):
                    end.close()
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                return asked
            for stream in streams:
                os.close(stream)
    os._exit(0)


def _received(connection):
    """What a client asks for, and its streams."""
    length, rights, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(12))
    streams = array.array("i")
    streams.frombytes(rights[0][2])
    with connection.makefile("rb") as file:
        return json.loads(file.read(int.from_bytes(length, "big"))), streams


def _report_ended(running):
    """Tells the clients of processes that have ended how they ended."""
    connections = {pid: connection for connection, pid in running.items()}
    while connections:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        connection = connections.pop(pid)
        del running[connection]
        with contextlib.suppress(OSError), connection:
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(asked):
    """Runs a command as Python itself does, up to its end."""
    os.chdir(asked["cwd"])
    for name in asked["dropped"]:
        os.environ.pop(name, None)
    os.environ.update(asked["env"])
    _, module, *arguments = asked["argv"]
    sys.argv = [module, *arguments]
    paths = asked["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [asked["cwd"], *(path for path in paths if path)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _run(serve(sys.argv[2]))
    else:
        _client(sys.argv[1], sys.argv[2], sys.argv[3:])
