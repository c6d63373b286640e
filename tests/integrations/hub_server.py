"""A server on this machine that speaks as much of the Hugging Face Hub's protocol as models need."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories in memory: name -> path -> content."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reply(self, content: Any, status: int = 200, **headers: str) -> None:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def do_POST(self) -> None:
        body = self._body()
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:3] == ["api", "repos", "create"]:
            about = json.loads(body)
            name = "/".join(filter(None, [about.get("organization"), about["name"]]))
            self.server.repositories.setdefault(name, {})
            self.server.private[name] = about.get("private") or about.get("visibility") == "private"
            self._reply({"url": f"{self.server.address}/{name}"})
            return
        if parts[:2] == ["api", "validate-yaml"]:
            self._reply({"errors": [], "warnings": []})
            return
        name, action = "/".join(parts[2:4]), parts[4]
        if action == "preupload":
            files = json.loads(body)["files"]
            self._reply(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        elif action == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.repositories[name][entry["value"]["path"]] = content
            self._reply({"commitUrl": f"{self.server.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._reply({"error": self.path}, 404)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            files = self.server.repositories.get(name)
            if files is None:
                self._reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            elif "tree" in parts:
                self._reply(
                    [
                        {"type": "file", "path": path, "size": len(content), "oid": "0"}
                        for path, content in files.items()
                    ]
                )
            else:
                self._reply({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})
            return
        name, path = "/".join(parts[:2]), "/".join(parts[4:])
        content = self.server.repositories.get(name, {}).get(path)
        if parts[2:3] != ["resolve"] or content is None:
            self._reply({"error": "not found"}, 404, X_Error_Code="EntryNotFound")
            return
        self._reply(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815
