"""Cameras on this machine: MPEG transport streams over HTTP and over RTSP, which can be cut off."""

import base64
import http.server
import io
import socketserver
import struct
import threading
import time

import av
import numpy as np

# An RTP packet carries up to seven packets of a transport stream.
_PIECE = 7 * 188


def write_stream(path, frames, fps=25, format="mpegts", gop=12):
    """Writes frames as an H.264 stream; returns its path."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream("libx264", rate=fps, options={"threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.gop_size, stream.max_b_frames = gop, 0
        for image_HxWx3 in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HxWx3, "rgb24")))
        container.mux(stream.encode())
    return path


def _due_times(content):
    """Returns the first byte of each packet of a stream, and its seconds from the first one."""
    with av.open(io.BytesIO(content)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        base = packets[0].time_base
        return [p.pos for p in packets], [float((p.dts - packets[0].dts) * base) for p in packets]


class _Camera:
    """What both kinds of servers share.

    Attributes:
      connections, served: number of viewers so far, and of those that got all.
      cut_after: bytes after which each of the next connections is cut off; empty: none is.
      viewers: number of connections that are served; None for all.
      real_time: whether frames are sent when they are due, and not as fast as they are taken.
    """

    def __init__(self, content, real_time=False, cut_after=(), password="", viewers=None):
        self.content, self.cut_after = content, list(cut_after)
        self._due = _due_times(content) if real_time else ([0, 1], [0.0, 0.0])
        self.connections = self.served = 0
        self.viewers, self.password = viewers, password
        self.over = threading.Event()

    @property
    def away(self):
        """Whether it closes each connection at once."""
        return self.viewers is not None and self.connections >= self.viewers

    def pieces(self):
        """Yields the content at its pace, up to where it is cut."""
        self.connections += 1
        cut = self.cut_after.pop(0) if self.cut_after else len(self.content)
        begun = time.monotonic()
        for start in range(0, cut, _PIECE):
            due = begun + np.interp(start, *self._due)
            if self.over.wait(max(0.0, due - time.monotonic())):
                return
            yield self.content[start : min(start + _PIECE, cut)]
        self.served += 1

    def allows(self, authorization):
        expected = "Basic " + base64.b64encode(self.password.encode()).decode()
        return not self.password or authorization == expected

    def serve(self, server):
        self._server = server
        self._server.daemon_threads = True
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class HttpCamera(_Camera):
    """Serves /live (no length, as a camera), /file (with a length), /moved and any other pages.

    Attributes:
      pages: content of other paths.
      asked: every path that was asked for.
    """

    def __init__(self, content, **settings):
        super().__init__(content, **settings)
        self.pages, self.asked = {}, []
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                camera.asked.append(self.path)
                if camera.away:
                    return
                if not camera.allows(self.headers.get("Authorization")):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                path = self.path.partition("?")[0]
                if path == "/moved":
                    self.send_response(302)
                    self.send_header("Location", camera.url + "/live")
                    self.end_headers()
                    return
                self.send_response(200)
                content = camera.pages.get(path, camera.content)
                if path != "/live":
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if path in camera.pages:
                    self.wfile.write(content)
                    return
                try:
                    for piece in camera.pieces():
                        self.wfile.write(piece)
                except OSError:  # The viewer has left.
                    pass

            def log_message(self, *_):
                pass

        self.serve(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        self.url = f"http://127.0.0.1:{self.port}"


class RtspCamera(_Camera):
    """Serves the content over RTSP, inside its TCP connection; or sends viewers to `moved`."""

    def __init__(self, content, moved=None, **settings):
        super().__init__(content, **settings)
        self.requests = 0
        camera = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                while not camera.away and (request := self.rfile.readline()):
                    camera.requests += 1
                    headers = {}
                    while line := self.rfile.readline().decode().strip():
                        name, _, value = line.partition(":")
                        headers[name.lower()] = value.strip()
                    method = request.split()[0].decode()
                    if not camera.allows(headers.get("authorization")):
                        more = 'WWW-Authenticate: Basic realm="camera"\r\n'
                        self._answer(headers, more, status="401 Unauthorized")
                        continue
                    if moved and method == "DESCRIBE":
                        self._answer(headers, f"Location: {moved}\r\n", status="302 Found")
                        continue
                    self._answer(headers, *_RTSP.get(method, ("",)))
                    if method == "PLAY":
                        self._play()
                        return

            def _answer(self, headers, more="", body="", status="200 OK"):
                self.wfile.write(
                    f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{more}"
                    f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
                )

            def _play(self):
                begun = time.monotonic()
                for number, piece in enumerate(camera.pieces()):
                    stamp = int((time.monotonic() - begun) * 90_000) & 0xFFFFFFFF
                    packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, stamp, 1) + piece
                    try:
                        self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                    except OSError:
                        return

        self.serve(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))
        self.url = f"rtsp://127.0.0.1:{self.port}/live"


_RTSP = {
    "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",),
    "DESCRIBE": (
        "Content-Type: application/sdp\r\n",
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
        "m=video 0 RTP/AVP 33\r\na=control:track\r\n",
    ),
    "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n",),
}
