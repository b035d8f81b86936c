"""The page to drop videos on, as a process of its own, by its HTTP interface and in a browser.

Gradio needs an environment of its own, see pyproject.toml: there these tests run, elsewhere they
are skipped.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.support import watched_runs
from tests.support.ports import free_port

pytest.importorskip("gradio", reason="needs gradio, in an environment of its own")
gradio_client = pytest.importorskip("gradio_client", reason="needs gradio_client")

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of the command, which scores with a run on motion, and its temporary folder."""
    folder, port = tmp_path_factory.mktemp("app"), free_port()
    watched_runs.write_run(folder / "run")
    (folder / "tmp").mkdir()
    log = open(folder / "log", "w+")  # noqa: SIM115, closed below
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.app", f"--workdir={folder / 'run'}", f"--port={port}",
         "--max_megabytes=1"],
        stderr=log, cwd=ROOT, env=os.environ | {"TMPDIR": str(folder / "tmp")},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield address, folder / "tmp"
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
        log.close()
    assert status == 0, (folder / "log").read_text()
    assert list((folder / "tmp").iterdir()) == []  # Pages and uploads end with the command.


def _get(address):
    with urllib.request.urlopen(address, timeout=20) as answer:
        return answer.read().decode(), answer.headers


def _files(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_a_dropped_video_gives_its_page_and_goes(served, tmp_path):
    address, temporary = served
    client = gradio_client.Client(address, verbose=False, analytics_enabled=False)
    video = watched_runs.write_scene(tmp_path / "hall.mp4", seconds=8, moves=(3, 5))
    frame, found = client.predict(gradio_client.handle_file(video), api_name="/score")
    assert found["video"] == "hall" and found["rule"]["threshold"] == 0.5
    (event,) = found["events"]
    assert 2 < event["start"] < 4 and event["end"] < 6.5 and event["peak"] > 0.5
    assert frame.startswith(f'<iframe src="{found["page"]}"')
    page, headers = _get(address + found["page"])
    assert "hall" in page and "data:video/mp4;base64," in page
    assert headers["Content-Security-Policy"].startswith("default-src 'self' data: blob:;")
    assert len(re.search("/pages/([^/]+)/", found["page"])[1]) >= 32
    assert "hall.html" in _files(temporary) and "hall.mp4" not in _files(temporary)


def test_what_is_no_video_or_too_large_is_one_line(served, tmp_path):
    address, temporary = served
    client = gradio_client.Client(address, verbose=False, analytics_enabled=False)
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(Exception, match="notes.mp4: expected a video file") as caught:
        client.predict(gradio_client.handle_file(tmp_path / "notes.mp4"), api_name="/score")
    assert str(temporary) not in str(caught.value) and "Traceback" not in str(caught.value)
    (tmp_path / "large.mp4").write_bytes(bytes(3 << 20))
    with pytest.raises(Exception, match=r"(?i)size|413|large"):
        client.predict(gradio_client.handle_file(tmp_path / "large.mp4"), api_name="/score")
    assert not {"notes.mp4", "large.mp4"} & set(_files(temporary))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        _get(f"{address}/pages/../uploads/")


def test_only_this_machine_is_served(served):
    port = int(served[0].rpartition(":")[2])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for other in others - {"127.0.0.1", "::1"}:
        with socket.socket() as client:
            client.settimeout(2)
            assert client.connect_ex((other, port)) != 0


def test_the_page_opens_in_a_browser_without_asking_other_servers(served, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs chromium")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=15000", "--dump-dom",
         served[0]],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert "Find events" in done.stdout and "Drop a video of at most 1 MB" in done.stdout
    loaded = re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="(https?://[^"]+)"', done.stdout)
    assert [url for url in loaded if not url.startswith(served[0])] == []
