"""Feature sets of the Hugging Face Hub, from the library's offline cache and a local server."""

import http.server
import json
import os
import subprocess
import sys
import threading
import types

import pytest

from gvvad_jax.store.reader import Store
from tests.support import circulating

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(tmp_path, *flags, **environment):
    command = [sys.executable, "-m", "tools.import_features", "--from_hub=someone/features",
               "--encoder=i3d", f"--out={tmp_path}/store", *flags]  # fmt: skip
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=env)


def cached(tmp_path):
    """A snapshot as the library keeps it."""
    repository = tmp_path / "home/hub/datasets--someone--features"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    circulating.lap(snapshot)
    return snapshot


def test_a_cached_set_is_imported_offline(tmp_path):
    cached(tmp_path)
    done = run(tmp_path, "--visual=train,test", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["videos"]["test"] == {"normal": 2, "abnormal": 2}
    assert len(Store(tmp_path / "store")) == 10


def test_a_set_that_is_not_cached_is_one_line_offline(tmp_path):
    done = run(tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --from_hub=someone/features: expected a repository")
    assert "it isn't in the cache" in done.stderr
    assert done.stderr.count("\n") == 1


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as downloading a data set needs."""

    files = types.MappingProxyType({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        resolved = path.partition("/resolve/")[2].partition("/")[2]
        if path.startswith("/api/datasets/someone/features") and "/tree/" in path:
            self._send(json.dumps([
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.files.items()
            ]).encode())  # fmt: skip
        elif path.startswith("/api/datasets/someone/features"):
            siblings = [{"rfilename": name} for name in self.files]
            content = {"id": "someone/features", "sha": COMMIT, "siblings": siblings}
            self._send(
                json.dumps(content | {"private": False, "tags": [], "downloads": 0}).encode()
            )
        elif path.startswith("/datasets/someone/features") and resolved in self.files:
            self._send(self.files[resolved], ETag=f'"{hash(resolved) & 0xFFFFFF:x}"')
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content, **headers):
        self.send_response(200)
        headers = {"Content-Length": len(content), "X-Repo-Commit": COMMIT} | headers
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_set_is_downloaded_once(tmp_path, endpoint):
    folder = tmp_path / "remote"
    circulating.lap(folder)
    _Hub.files = {path.relative_to(folder).as_posix(): path.read_bytes()
                  for path in folder.rglob("*.npy")}  # fmt: skip
    done = run(tmp_path, HF_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr
    assert len(Store(tmp_path / "store")) == 10
    again = run(tmp_path, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["out_written"] == 0


def test_a_repository_that_is_not_there_is_one_line(tmp_path, endpoint):
    done = run(tmp_path, "--from_hub=nobody/nothing", HF_ENDPOINT=endpoint)
    assert done.returncode == 2
    assert "no such repository, or no access" in done.stderr
    assert "Traceback" not in done.stderr
