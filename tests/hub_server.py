"""A Hugging Face hub on the loopback: as much of its protocol as huggingface_hub 2.4 uses.

As on the real one, files in LFS are redirected to a second host (here another name of this one),
which must never see the token.
"""

import functools
import hashlib
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

_EXCERPT = re.compile(r"bytes=(\d+)-(\d+)")
TOKEN = "hf_secret"

# Runs `fetch` as the program would: huggingface_hub reads its environment when imported.
RUNNER = f"""
import json, runpy, sys
answer_of = runpy.run_path({__file__!r})["answer_of"]
for options in sys.argv[1:]:
    print(json.dumps(answer_of(json.loads(options))))
"""


def answer_of(options: dict[str, Any]) -> dict[str, Any]:
    """What `fetch` returns or raises, and all that it said of its progress."""
    from sana_cli.checkpoints.hub import fetch
    from sana_cli.errors import SanaError

    calls: list[tuple[Any, ...]] = []
    try:
        snapshot = fetch(**options, progress=lambda *call: calls.append(call))
    except SanaError as error:
        answer = {"message": error.message, "hint": error.hint, "code": error.code.name}
    else:
        answer = {"path": str(snapshot.path), "revision": snapshot.revision}
    return {**answer, "progress": calls}


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]

    @property
    def range_start(self) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else None

    @property
    def excerpt(self) -> tuple[int, int] | None:
        """First and last byte of a request for a piece, such as a header."""
        match = _EXCERPT.fullmatch(self.headers.get("range", ""))
        return (int(match[1]), int(match[2])) if match else None


@dataclass
class Hub:
    """What the server serves, how it misbehaves, and what it was asked."""

    cache: Path
    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    # by parts of the path; status 0 is silence
    statuses: dict[tuple[str, ...], tuple[int, dict[str, str]]] = field(default_factory=dict)
    served_instead: dict[str, bytes] = field(default_factory=dict)  # by file name
    # file: bytes, hang|reset|close
    stop_at: dict[str, tuple[int, str]] = field(default_factory=dict)
    ignore_range: bool = False
    lie: Callable[[dict[str, Any]], object] | None = None  # what the listing becomes
    release: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def commit(self, repo: str) -> str:
        tree = sorted((name, sha256(data)) for name, data in self.repos[repo].items())
        return hashlib.sha1(repr(tree).encode()).hexdigest()

    def gets(self, part: str = "/resolve/") -> list[Request]:
        """Requests for whole files, or for what is missing of them."""
        gets = [r for r in self.requests if r.method == "GET" and part in r.path]
        return [r for r in gets if r.excerpt is None]

    def excerpts(self) -> dict[str, int]:
        """How many bytes of each large file were asked for, where only a piece was."""
        found: dict[str, int] = {}
        for request in self.requests:
            if request.excerpt and "/cdn/" in request.path:
                name = request.path.split("/", 4)[4]
                found[name] = found.get(name, 0) + request.excerpt[1] + 1 - request.excerpt[0]
        return found

    def downloaded(self) -> set[str]:
        return {r.path.split("/resolve/")[1].partition("/")[2] for r in self.gets()}

    def environment(self, **extra: str) -> dict[str, str]:
        ours = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k[:3] != "HF_"}
        ours |= {"HF_ENDPOINT": self.url, "HF_HOME": str(self.cache), "HF_TOKEN": TOKEN}
        return ours | {"HF_HUB_DISABLE_TELEMETRY": "1"} | extra

    @contextmanager
    def here(self) -> Iterator[None]:
        """Within the block this process asks this hub. huggingface_hub read its environment long ago."""
        cache = str(self.cache / "hub")
        with (
            mock.patch.multiple("huggingface_hub.constants", ENDPOINT=self.url, HF_HUB_CACHE=cache),
            mock.patch.dict(os.environ, {"HF_TOKEN": TOKEN}),
        ):
            yield

    def answers(self, *options: dict[str, Any]) -> list[dict[str, Any]]:
        """Result or error of `fetch` in this process, once for each of `options`; a word on stderr fails the test."""
        with self.here(), redirect_stderr(io.StringIO()) as said:
            answers = [answer_of(each) for each in options]
        assert said.getvalue() == ""
        return json.loads(json.dumps(answers))

    def start(
        self, *options: dict[str, object], env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """A process that calls `sana_cli.checkpoints.hub.fetch` once for each of `options`."""
        return subprocess.Popen(
            [sys.executable, "-c", RUNNER, *map(json.dumps, options)],
            env=self.environment(**(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # What runs in the background of a shell inherits that it ignores Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def finish(self, process: subprocess.Popen[str]) -> list[dict[str, object]]:
        """Result or error of each call; anything else, a word on stderr too, fails the test."""
        stdout, stderr = process.communicate(timeout=240)
        assert (process.returncode, stderr) == (0, "")
        return [json.loads(line) for line in stdout.splitlines()]


def entry(info: dict[str, Any], name: str) -> dict[str, Any]:
    """What a listing says of a file."""
    return next(each for each in info["siblings"] if each["rfilename"] == name)


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", "tokenizer.json", ".bin", ".model"))


@functools.cache
def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@functools.cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, headers))
        for parts, (status, extra) in self.hub.statuses.items():
            if all(part in f"{path}/" for part in parts):
                if status == 0:
                    self.hub.release.wait(240)
                    self.close_connection = True
                    return None
                return self.answer(status, b"<html>", extra)
        if match := re.fullmatch(r"/api/models/([\w-]+/[\w.-]+)(?:/(revision|tree)/(\w+))?", path):
            return self.api(match[1], match[2], match[3] or "main")
        if match := re.fullmatch(r"/([\w-]+/[\w.-]+)/resolve/(\w+)/(.+)", path):
            return self.resolve(match[1], match[2], match[3])
        if match := re.fullmatch(r"/cdn/([\w-]+/[\w.-]+)/(.+)", path):
            return self.cdn(match[1], match[2])
        return self.answer(404, b"")

    def api(self, repo: str, kind: str | None, revision: str) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", self.hub.commit(repo)):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if kind == "tree":
            tree = []
            for name, data in files.items():
                entry = {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
                if is_lfs(name):
                    entry |= {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}}
                tree.append(entry)
            return self.answer(200, json.dumps(tree).encode())
        siblings = []
        for name, data in files.items():
            entry = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            if is_lfs(name):
                entry |= {"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 134}}
            siblings.append(entry)
        info = {"_id": "1", "id": repo, "sha": self.hub.commit(repo), "siblings": siblings}
        told = self.hub.lie(info) if self.hub.lie else info
        return self.answer(200, told if isinstance(told, bytes) else json.dumps(told).encode())

    def resolve(self, repo: str, revision: str, name: str) -> None:
        commit = {"X-Repo-Commit": self.hub.commit(repo)}
        data = self.hub.repos[repo].get(name)
        if data is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", **commit})
        if not is_lfs(name):
            body = self.hub.served_instead.get(name, data)
            return self.answer(200, body, {"ETag": f'"{git_sha1(data)}"', **commit})
        port = self.server.server_address[1]
        linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        location = {"Location": f"http://localhost:{port}/cdn/{repo}/{name}"}
        return self.answer(302, b"", {**location, **linked, **commit})

    def cdn(self, repo: str, name: str) -> None:
        data = self.hub.served_instead.get(name, self.hub.repos[repo][name])
        piece = _EXCERPT.fullmatch(self.headers.get("Range", ""))
        if piece and not self.hub.ignore_range:
            self.answer(206, data[int(piece[1]) : int(piece[2]) + 1])
            return
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match and not self.hub.ignore_range else None
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - (start or 0)))
        self.end_headers()
        end, how = (len(data), "") if piece else self.hub.stop_at.pop(name, (len(data), ""))
        self.wfile.write(data[start or 0 : end])
        if not how:
            return
        self.wfile.flush()
        self.hub.reached.set()
        self.hub.release.wait(240 if how == "hang" else 0.3)
        self.close_connection = True
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # a client that went away is what these tests are about


@contextmanager
def serve_hub(cache: Path) -> Iterator[Hub]:
    """A running hub, its client's cache in `cache`."""
    hub = Hub(cache=cache)
    server = QuietServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
