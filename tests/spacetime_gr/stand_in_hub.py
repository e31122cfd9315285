"""A model hub on this machine: the few endpoints that huggingface_hub calls, with branches, LFS and a private token."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
LARGE = (".npy", ".arrow", ".safetensors")


class Hub:
    """Repositories: branch -> commit, commit -> files; every request must carry the token."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, Files] = {}
        self.objects: Files = {}  # what LFS holds, by sha256
        self.refused = 0
        self.lock = threading.Lock()

    def files(self, repo: str, revision: str = "main") -> Files | None:
        """Files at a branch or commit."""
        return self.commits.get(self.branches.get(repo, {}).get(revision, revision))

    def create(self, repo: str) -> None:
        """A repository with an empty first commit."""
        if repo not in self.branches:
            self.branches[repo] = {}
            self.store(repo, "main", {})

    def store(self, repo: str, branch: str, files: Files) -> str:
        """A new commit on a branch."""
        listing = json.dumps([repo, len(self.commits), sorted(files)])
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[commit] = files
        self.branches[repo][branch] = commit
        return commit

    def commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> str:
        """Apply the operations of a commit request."""
        files = dict(self.files(repo, branch) or {})
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return self.store(repo, branch, files)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer("GET")

        def do_HEAD(self) -> None:
            self._answer("HEAD")

        def do_POST(self) -> None:
            self._answer("POST")

        def do_PUT(self) -> None:
            self._answer("PUT")

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            # Uploads go to signed addresses, without the token.
            if method != "PUT" and self.headers.get("Authorization") != f"Bearer {hub.token}":
                hub.refused += 1
                return self._send(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            with hub.lock:
                for (verb, pattern), action in ROUTES.items():
                    match = re.fullmatch(pattern, path)
                    if verb in (method, "GET" if method == "HEAD" else "") and match:
                        return action(self, *match.groups(), body=body)
            return self._send(404, {"error": f"no route for {method} {path}"})

        def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def create(self, body: bytes) -> None:
            wish = json.loads(body)
            name = f"{wish.get('organization') or 'someone'}/{wish['name']}"
            hub.create(name)
            self._send(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})

        def card(self, body: bytes) -> None:
            self._send(200, {"errors": [], "warnings": []})

        def branch(self, repo: str, name: str, body: bytes) -> None:
            known = hub.branches[repo]
            if name in known:
                return self._send(409, {"error": "exists"})
            known[name] = known["main"]
            return self._send(200, {})

        def preupload(self, repo: str, branch: str, body: bytes) -> None:
            asked = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in asked
            ]
            self._send(200, {"files": modes})

        def lfs(self, repo: str, body: bytes) -> None:
            objects = [
                {
                    "oid": one["oid"],
                    "size": one["size"],
                    "actions": {"upload": {"href": f"http://{self.headers['Host']}/lfs/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})

        def upload(self, oid: str, body: bytes) -> None:
            assert hashlib.sha256(body).hexdigest() == oid
            hub.objects[oid] = body
            self._send(200, {})

        def commit(self, repo: str, branch: str, body: bytes) -> None:
            commit = hub.commit(repo, branch, [json.loads(line) for line in body.splitlines()])
            url = f"http://{self.headers['Host']}/{repo}/commit/{commit}"
            self._send(200, {"commitUrl": url, "commitOid": commit, "success": True})

        def info(self, repo: str, revision: str | None = None, body: bytes = b"") -> None:
            files = hub.files(repo, revision or "main")
            if files is None:
                code = "RepoNotFound" if repo not in hub.branches else "RevisionNotFound"
                return self._send(404, {"error": code}, {"X-Error-Code": code})
            commit = hub.branches[repo].get(revision or "main", revision)
            siblings = [{"rfilename": name} for name in files]
            return self._send(200, {"id": repo, "sha": commit, "siblings": siblings, "private": True})

        def tree(self, repo: str, revision: str, body: bytes) -> None:
            files = hub.files(repo, revision) or {}
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self._send(200, listing)

        def resolve(self, repo: str, revision: str, path: str, body: bytes) -> None:
            files = hub.files(repo, revision)
            if files is None or path not in files:
                code = "EntryNotFound" if files is not None else "RepoNotFound"
                commit = hub.branches.get(repo, {}).get(revision, revision)
                return self._send(404, {"error": code}, {"X-Error-Code": code, "X-Repo-Commit": commit})
            commit = hub.branches[repo].get(revision, revision)
            etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
            return self._send(200, files[path], {"ETag": etag, "X-Repo-Commit": commit})

    repo = r"([^/]+/[^/]+)"
    ROUTES = {
        ("POST", "/api/repos/create"): Handler.create,
        ("POST", "/api/validate-yaml"): Handler.card,
        ("POST", rf"/api/models/{repo}/branch/(.+)"): Handler.branch,
        ("POST", rf"/api/models/{repo}/preupload/(.+)"): Handler.preupload,
        ("POST", rf"/api/models/{repo}/commit/(.+)"): Handler.commit,
        ("POST", rf"/{repo}\.git/info/lfs/objects/batch"): Handler.lfs,
        ("PUT", r"/lfs/(\w+)"): Handler.upload,
        ("GET", rf"/api/models/{repo}"): Handler.info,
        ("GET", rf"/api/models/{repo}/revision/(.+)"): Handler.info,
        ("GET", rf"/api/models/{repo}/tree/([^/]+)"): Handler.tree,
        ("GET", rf"/{repo}/resolve/([^/]+)/(.+)"): Handler.resolve,
    }
    return Handler


@contextmanager
def stand_in_hub(token: str) -> Iterator[tuple[Hub, str]]:
    """A running hub and its address."""
    hub = Hub(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
