"""As much of the Hugging Face Hub over HTTP as creating, uploading and downloading models needs."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading

TOKEN = "hf_of_the_test"


class Hub:
    """The repositories of models on a server: files of the newest commit of each branch, by name.

    Attributes:
      repos: {id: {"private": ..., "branches": {name: [commits, {path: content}]}}}
      requests: (method, path) of each request.
    """

    def __init__(self):
        self.repos, self.requests, self.blobs = {}, [], {}

    def find(self, repo, revision):
        """The commit and the files of a branch or commit, or None."""
        for commits in self.repos.get(repo, {"branches": {}})["branches"].values():
            for sha, files in commits:
                if sha == revision:
                    return sha, files
        commits = self.repos.get(repo, {"branches": {}})["branches"].get(revision)
        return commits[-1] if commits else None


def _sha(*parts):
    return hashlib.sha1(repr(parts).encode()).hexdigest()


def _is_private(content):
    """True, False, or None for the default of the account."""
    visibility = content.get("visibility")
    return content.get("private") if visibility is None else visibility == "private"


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.requests.append((self.command, self.path))
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            repo, _, rest = path.removeprefix("/api/models/").partition("/revision/")
            found = self.hub.find(repo, rest or "main")
            if found:
                siblings = [{"rfilename": name} for name in found[1]]
                return self._json({"id": repo, "sha": found[0], "siblings": siblings})
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        found = self.hub.find(repo, revision)
        if found is None:
            return self._refuse(404, "RepoNotFound" if repo not in self.hub.repos else
                                "RevisionNotFound")  # fmt: skip
        if name not in found[1]:
            return self._refuse(404, "EntryNotFound")
        content = found[1][name]
        etag = hashlib.sha256(content).hexdigest()
        self._send(content, {"X-Repo-Commit": found[0], "ETag": f'"{etag}"'})

    def do_POST(self):
        self.hub.requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        content = lines[0] if lines else {}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "")
        if self.path == "/api/repos/create":
            return self._create(content)
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            modes = [{"path": f["path"], "shouldIgnore": False, "oid": None,
                      "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                     for f in content["files"]]  # fmt: skip
            return self._json({"files": modes})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                o | {"actions": {"upload": {"href": f"{self._address()}/lfs/{o['oid']}"}}}
                for o in content["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            return self._commit(lines)
        self._refuse(404, "")

    def do_PUT(self):
        self.hub.requests.append((self.command, self.path))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.blobs[oid] = content
        self._send(b"", {})

    def _create(self, content):
        repo = f"{content['organization']}/{content['name']}"
        if repo in self.hub.repos:
            return self._json({"url": f"{self._address()}/{repo}"}, 409)
        self.hub.repos[repo] = {"private": _is_private(content), "branches": {"main": []}}
        self._json({"url": f"{self._address()}/{repo}", "id": repo})

    def _commit(self, lines):
        repo, _, branch = (
            self.path.partition("?")[0].removeprefix("/api/models/").partition("/commit/")
        )
        commits = self.hub.repos[repo]["branches"][branch]
        files = dict(commits[-1][1]) if commits else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        sha = _sha(repo, branch, len(commits))
        commits.append((sha, files))
        address = f"{self._address()}/{repo}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""})

    def _address(self):
        return f"http://{self.headers['Host']}"

    def _json(self, content, status=200):
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)

    def _refuse(self, status, code):
        self._send(b"{}", {"X-Error-Code": code} if code else {}, status)

    def _send(self, content, headers, status=200):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    """A Hub without repositories, and its address."""
    hub = Hub()
    handler = type("_Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
