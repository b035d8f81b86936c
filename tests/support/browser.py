"""Opens a page in headless Chromium, at two widths at once."""

import contextlib
import html
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
import urllib.parse

import pytest

WIDTHS = (390, 1280)
# Everything that isn't inside the page would be refused, with an error on the console.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "media-src data:"
)
_OUTER = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, root = page.documentElement;
    return {{overflow: root.scrollWidth - root.clientWidth, seen: (({probe}))(page)}};
  }});
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>"""


def look(page, folder, probe="() => null"):
    """Opens a page and returns what the browser finds.

    Args:
      page: the page's HTML.
      folder: for temporary files.
      probe: a JavaScript function of the page's document, called at each width.

    Returns:
      (by width {overflow: pixels that the page is wider than the window, seen: the probe's value},
      lines on the console, which a request to the network would be on).
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs chromium")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
    inside = html.escape(page.replace("<head>", f"<head>{policy}", 1))
    frames = "".join(
        f'<iframe srcdoc="{inside}" width="{width}" height="900" style="border:0"></iframe>'
        for width in WIDTHS
    )
    path = folder / "outer.html"
    path.write_text(_OUTER.format(frames=frames, probe=probe), encoding="utf-8")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", "--dump-dom",
         f"file://{path}"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    written = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert written and written[1], done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return dict(zip(WIDTHS, json.loads(html.unescape(written[1])), strict=True)), console


_STAGE = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><body>
<iframe src="/{page}" width="{width}" height="900" style="border:0"></iframe><script>
const frame = document.querySelector("iframe");
const until = async (what, seconds = 20) => {{
  for (const end = performance.now() + 1000 * seconds; performance.now() < end;) {{
    if (what()) return true;
    await new Promise((done) => setTimeout(done, 30));
  }}
  return false;
}};
frame.addEventListener("load", async () => {{
  let said;
  try {{ said = await (({script}))(frame.contentWindow, frame.contentDocument, until); }}
  catch (error) {{ said = {{error: String(error)}}; }}
  fetch("/done", {{method: "POST", body: JSON.stringify(said)}});
}});
</script>"""


class _Stage(http.server.BaseHTTPRequestHandler):
    """Serves a folder, and the frame in which a page of it is acted on."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.server.said = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(b"", "text/plain")
        self.server.done.set()

    def do_GET(self):
        path = urllib.parse.unquote(self.path.lstrip("/"))
        if path == "stage":
            return self._answer(self.server.stage.encode(), "text/html")
        self.server.requests.append(path)
        file = self.server.folder / path
        if not file.is_file():
            return self._answer(b"", "text/plain", 404)
        kind = {".html": "text/html", ".mp4": "video/mp4"}.get(file.suffix, "application/x")
        return self._answer(file.read_bytes(), kind)

    def _answer(self, content, kind, status=200):
        size = len(content)
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200:
            start, end = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
            content, status = content[start : end + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if kind == "text/html" and self.path != "/stage":
            self.send_header("Content-Security-Policy", f"{_POLICY} 'self'")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # The player has seen enough of a video.
            self.wfile.write(content)


def act(folder, page, script, width=1280):
    """Opens a page of a folder in real time, plays with it, and returns what the browser finds.

    Args:
      folder: is served on loopback.
      page: the page's name in it.
      script: an async JavaScript function of the page's window, its document and `until(what)`,
        which waits until a function is true.
      width: of the window.

    Returns:
      (the script's value, what was asked of the server, lines on the console).
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs chromium")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stage)
    server.folder, server.requests, server.done, server.said = folder, [], threading.Event(), ""
    server.stage = _STAGE.format(page=urllib.parse.quote(page), width=width, script=script)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             "--autoplay-policy=no-user-gesture-required", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run",
             f"--user-data-dir={profile}", "--window-size=1400,1000",
             "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/stage"],
            stderr=errors, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            done = server.done.wait(90)
        finally:
            process.terminate()
            process.wait(30)
            server.shutdown()
            server.server_close()
        errors.seek(0)
        lines = errors.read().splitlines()
    assert done, "\n".join(lines[-20:])
    console = [line for line in lines if "CONSOLE" in line]
    return json.loads(server.said), server.requests, console
