"""Measures watching live sources: cameras a core, delay and memory. Linux only.

    python -m tools.bench_live --workdir=RUN --video=FILE --cameras=1,2,4 --footage_seconds=120
    python -m tools.bench_live --workdir=RUN --video=FILE --fast --footage_seconds=3600

A process of its own sends the video, again and again, as MPEG transport streams: in real time over
HTTP on loopback to so many cameras, or with --fast once into a pipe as fast as it is taken. Another
process watches them (gvvad watch). Printed are, as JSON for each number of cameras: seconds
of footage that were scored, for each second of one core's time after the start (cameras a core);
snippets left out; seconds from a snippet's last frame to its score; resident memory after a tenth
of the time, at the end, and the most.
"""

import contextlib
import dataclasses
import http.server
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from absl import flags

from gvvad_jax.command import UserError, run_command
from tools.watching.live_options import LiveOptions
from tools.watching.options import WatchOptions

_TICKS = os.sysconf("SC_CLK_TCK")
# Seconds between two looks at the process.
_LOOK_SECONDS = 0.5


def main(_: list[str]) -> None:
    values = flags.FLAGS
    for name in ("workdir", "video"):
        if not values[name].value:
            raise UserError(f"--{name}: expected a path, found none; give --workdir and --video")
    for number in [1] if values.fast else map(int, values.cameras):
        with tempfile.TemporaryDirectory() as folder:
            figures = _measure(number, pathlib.Path(folder), values)
        print(json.dumps({"cameras": number, "fast": values.fast, **figures}), flush=True)


def _measure(number: int, out: pathlib.Path, values: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "tools.score_video"]
    command += [f"--workdir={values.workdir}", f"--out={out / 'out'}"]
    given = {name: values[name].value for name in ("threshold", "window")}
    command += [f"--{name}={value}" for name, value in given.items() if value is not None]
    if values.fast:
        reads, writes = os.pipe()
        sender = multiprocessing.Process(
            target=_into_pipe, args=(reads, writes, values.video, values.footage_seconds)
        )
        sender.start()
        os.close(writes)
        watching = subprocess.Popen([*command, "-"], stdin=reads, stdout=subprocess.PIPE)
        os.close(reads)
    else:
        ports: multiprocessing.Queue = multiprocessing.Queue()
        sender = multiprocessing.Process(target=_serve_forever, args=(ports, values.video))
        sender.start()
        url = f"http://127.0.0.1:{ports.get(timeout=60)}"
        cameras = [f"camera{k}={url}/{k}" for k in range(number)]
        watching = subprocess.Popen([*command, *cameras], stdout=subprocess.PIPE)
    try:
        return _observe(watching, out / "out" / "status.json", values)
    finally:
        watching.kill()
        sender.kill()


def _observe(watching: subprocess.Popen, status: pathlib.Path, values: Any) -> dict[str, Any]:
    """Watches the watching process until it has ended, or the time is over."""
    while not _snippets(status):
        if watching.poll() is not None:
            raise UserError("expected a process that watches, found that it has ended; see above")
        time.sleep(_LOOK_SECONDS)
    begun, cpu = time.monotonic(), _cpu_seconds(watching.pid)
    footage = _footage(status)
    resident: list[int] = []
    used = cpu
    while watching.poll() is None and (
        values.fast or time.monotonic() - begun < values.footage_seconds
    ):
        resident.append(_resident(watching.pid))
        used = max(used, _cpu_seconds(watching.pid))
        time.sleep(_LOOK_SECONDS)
    wall = time.monotonic() - begun
    if watching.poll() is None:
        watching.send_signal(signal.SIGTERM)
    printed, _ = watching.communicate(timeout=120)
    sources = json.loads(printed)["sources"]
    scored = sum(map(_scored, sources.values())) - footage
    resident = [size for size in resident if size]
    return {
        "footage_seconds": round(scored, 1),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used - cpu, 2),
        "cameras_a_core": round(scored / max(used - cpu, 1e-9), 2),
        "snippets": sum(source["snippets"] for source in sources.values()),
        "dropped_snippets": sum(source["dropped_snippets"] for source in sources.values()),
        "mean_delay": max(source["mean_delay"] or 0 for source in sources.values()),
        "longest_delay": max(source["longest_delay"] or 0 for source in sources.values()),
        "resident_mb": [
            round(size / 1e6, 1)
            for size in (resident[len(resident) // 10], resident[-1], max(resident))
        ],
    }


def _status(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())["sources"]
    except (OSError, ValueError):
        return {}


def _snippets(path: pathlib.Path) -> bool:
    """Returns whether every source has a score."""
    sources = _status(path).values()
    return bool(sources) and all(source["snippets"] for source in sources)


def _footage(path: pathlib.Path) -> float:
    return sum(map(_scored, _status(path).values()))


def _scored(source: dict[str, Any]) -> float:
    """Returns a source's seconds without the share that was left out."""
    taken, left_out = source["snippets"], source["dropped_snippets"]
    return source["seconds"] * taken / max(1, taken + left_out)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident(pid: int) -> int:
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _serve_forever(ports: multiprocessing.Queue, video: str) -> None:
    import av

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError, av.error.FFmpegError):  # The viewer has left.
                _send(self.wfile, video, None, real_time=True)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    ports.put(server.server_port)
    server.serve_forever()


def _into_pipe(reads: int, writes: int, video: str, seconds: float) -> None:
    os.close(reads)  # Otherwise this process would never learn that nobody reads.
    with os.fdopen(writes, "wb") as pipe:
        _send(pipe, video, seconds, real_time=False)


class _Unseekable:
    """A file that is written from its start to its end."""

    def __init__(self, write: Callable[[bytes], Any]):
        self.write = write


def _send(to: BinaryIO, video: str, seconds: float | None, real_time: bool) -> None:
    """Sends a video's packets again and again as one transport stream.

    Args:
      to: where to.
      video: the file.
      seconds: how much; None for no end.
      real_time: whether packets are sent when they are due.
    """
    import av

    begun = time.monotonic()
    with av.open(_Unseekable(to.write), "w", format="mpegts") as sent:
        stream, offset = None, 0.0
        while seconds is None or offset < seconds:
            with av.open(video) as container:
                source = container.streams.video[0]
                if stream is None:
                    stream = sent.add_stream_from_template(source)
                base = float(source.time_base)
                first, last, length = None, offset, 1 / float(source.average_rate or 25)
                for packet in container.demux(source):
                    if packet.dts is None:
                        continue
                    first = packet.dts if first is None else first
                    due = last = offset + (packet.dts - first) * base
                    if real_time:
                        time.sleep(max(0.0, begun + due - time.monotonic()))
                    shift = round(offset / base) - first
                    packet.dts += shift
                    packet.pts = None if packet.pts is None else packet.pts + shift
                    packet.stream = stream
                    sent.mux(packet)
                offset = last + length


def _help_of(options: type, name: str) -> str:
    return {field.name: field for field in dataclasses.fields(options)}[name].metadata["help"]


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "Run folder with the trained detector. Required.")
    flags.DEFINE_string("video", "", "File that cameras show again and again. Required.")
    flags.DEFINE_list("cameras", ["1", "2", "4"], "Numbers of cameras to watch at a time.")
    flags.DEFINE_float("footage_seconds", 60.0, "Seconds of footage.", lower_bound=1)
    flags.DEFINE_bool("fast", False, "Send one camera's footage as fast as it is taken.")
    flags.DEFINE_float("threshold", None, _help_of(WatchOptions, "threshold"))
    flags.DEFINE_integer("window", None, _help_of(LiveOptions, "window"), lower_bound=1)
    run_command(main, usage=__doc__)
