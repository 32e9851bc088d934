"""Who gets in, and what is refused before any work, with one line in the log."""

import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sana_cli.server.guard import Doors
from sana_cli.server.limits import Limits

KEY = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421), ({"Host": "localhost"}, 200), ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "[::1]:7262"}, 200), ({"Host": ""}, 421), ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
    ids=str,
)  # fmt: skip
def test_other_pages_and_names_are_refused(
    server: Any, headers: dict[str, str], status: int
) -> None:
    with server.client() as client:
        answer = client.get("/v1/status", headers=headers)
    assert answer.status_code == status

    def last() -> tuple[str, int]:
        written = server.log.getvalue().splitlines()
        line = json.loads(written[-1]) if written else {"path": "", "status": 0}
        return line["path"], line["status"]

    deadline = time.monotonic() + 60  # the line is written after the answer
    while last() != ("/v1/status", status) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert last() == ("/v1/status", status)


_HOST = b"Host: localhost\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/status HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + 2 * _HOST + b"\r\n", b"GET /v1/status\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + _HOST + b"X y: z\r\n\r\n", b"\x16\x03\x01" + bytes(200),
        b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: gzip\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 2**20,
    ],
    ids=["no host", "two hosts", "0.9", "header", "TLS", "negative", "two lengths", "gzip", "endless"],
)  # fmt: skip
def test_what_is_no_http_is_refused_with_one_line(server: Any, sent: bytes) -> None:
    before = server.log.getvalue().count("\n")
    with socket.create_connection(("127.0.0.1", server.running.port), timeout=60) as sock:
        with suppress(ConnectionError):  # it reads no further
            sock.sendall(sent)
        answer = b""
        with suppress(ConnectionError):
            while more := sock.recv(4096):
                answer += more
    assert answer[:13] in (b"HTTP/1.1 400 ", b"")  # lost where bytes came after it
    lines = [json.loads(line) for line in server.log.getvalue().splitlines()[before:]]
    assert [(line["path"], line["status"]) for line in lines] == [("", 400)]


def test_the_own_page_s_origin_is_let_in(server: Any) -> None:
    with server.client() as client:
        assert client.get("/v1/status", headers={"Origin": server.url}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"])
def test_what_a_foreign_form_can_send_is_no_request(server: Any, path: str, kind: str) -> None:
    with server.client() as client:
        answer = client.post(path, content=b'{"prompt": "a cat"}', headers={"Content-Type": kind})
    assert answer.status_code == 415


def test_keys_open_in_each_client_s_way(starting: Callable[..., Any]) -> None:
    server = starting(keys=(KEY,))
    with server.client() as client:
        assert client.get("/v1/status").status_code == 401
        assert client.get("/healthz").status_code == 200
        for wrong in (KEY[:-1], KEY + "x", "é"):
            bad = client.get("/v1/status", headers={"Authorization": f"Bearer {wrong}".encode()})
            assert bad.status_code == 401
        assert client.get("/v1/status", auth=("user", KEY)).status_code == 200
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}):
            assert client.get("/v1/status", headers=headers).status_code == 200
    assert KEY not in server.log.getvalue()


def test_keys_are_compared_in_a_time_that_shows_nothing() -> None:
    """The comparison reads digests of equal length to their end; a key that shares a prefix takes no other way."""
    doors = Doors(secret="s", keys=("another", KEY, "a third"))

    def steps(key: str) -> list[str]:
        called: list[str] = []
        sys.setprofile(lambda frame, event, function: called.append(_name(frame, event, function)))
        try:
            doors.knows(key, doors.keys)
        finally:
            sys.setprofile(None)
        return called[:-1]  # without the way back

    right, near, far = steps(KEY), steps(KEY[:-1] + "x"), steps("x" * len(KEY))
    assert right == near == far
    assert right.count("c_call compare_digest") == len(doors.keys)


def _name(frame: Any, event: str, function: Any) -> str:
    return f"{event} {getattr(function, '__name__', frame.f_code.co_name)}"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"prompt": NaN}', b'{"prompt": "a cat", "guidance_scale": NaN}',
     b'{"prompt": "a cat", "seed": 1e400}', b'{"prompt": "a cat", "steps": 99999999999999999999999}', b"null", b'"x"',
     b'{"prompt": "\\ud800"}'],
    ids=lambda b: repr(b[:40]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"])
def test_bad_json_is_a_client_s_error(server: Any, path: str, body: bytes) -> None:
    with server.client() as client:
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text


def test_bodies_end_at_their_limits(starting: Callable[..., Any]) -> None:
    server = starting(limits=Limits(body_bytes=1000, body_seconds=0.5, head_seconds=0.5))
    with server.client() as client:
        answer = client.post("/v1/jobs", json={"prompt": "x" * 2000})
        assert answer.status_code == 413

        def pieces() -> Any:
            for _ in range(20):
                yield b" " * 100

        kind = {"Content-Type": "application/json"}
        assert client.post("/v1/jobs", content=pieces(), headers=kind).status_code == 413
    host, port = "127.0.0.1", int(server.url.rpartition(":")[2])
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection((host, port)) as slow:
        slow.sendall(head)
        slow.settimeout(10)
        assert b"408" in slow.recv(1000)
    with socket.create_connection((host, port)) as silent:
        silent.settimeout(10)
        assert silent.recv(10) == b""  # closed


def test_a_pixel_bomb_is_refused_unread(starting: Callable[..., Any]) -> None:
    import base64
    import io

    from PIL import Image

    server = starting(limits=Limits(pixels=10_000))
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, format="PNG")
    upload = {"data": base64.b64encode(file.getvalue()).decode()}
    with server.client() as client:
        answer = client.post("/v1/jobs", json={"prompt": "a cat", "image": upload})
    assert answer.status_code == 400
    assert "5000x5000" in answer.json()["error"]["message"]


def test_a_full_queue_says_when_to_come_again(starting: Callable[..., Any]) -> None:
    server = starting(limits=Limits(queue=1))
    body = {"prompt": "a cat", "steps": 200, "width": 256, "height": 256}
    with server.client() as client:
        answers = [client.post("/v1/jobs", json=body) for _ in range(4)]
        assert 429 in [answer.status_code for answer in answers]
        full = next(answer for answer in answers if answer.status_code == 429)
        assert int(full.headers["Retry-After"]) >= 1
        for answer in answers:
            if answer.status_code == 202:
                client.delete(f"/v1/jobs/{answer.json()['id']}")


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/jobs", {"json": {"prompt": "a cat", "strength": 0.5, "image": {"data": "AAAA", "name": "a.png"}}}),
        ("/v1/images/edits", {"data": {"prompt": "a cat"}, "files": {"image": ("a.png", b"AAA")}}),
        ("/v1/images/edits", {"data": {"prompt": "a cat"}, "files": dict.fromkeys(("image", "mask"), ("a.png", b"AAA"))}),
        ("/v1/images/edits", {"data": {"prompt": "a cat"}, "files": {"image": ("a.png", bytes(2**21))}}),
        ("/sdapi/v1/img2img", {"json": {"prompt": "a cat", "init_images": ["AAAA"]}}),
        ("/sdapi/v1/png-info", {"json": {"image": "AAAA"}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_uploads_without_a_temporary_folder(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, sent: dict[str, Any]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with server.client() as client:
        answer = client.post(path, **sent)
    assert answer.status_code == 503
    assert "bug" not in answer.text
    assert str(tmp_path) not in answer.text


def test_a_folder_that_vanishes_is_made_again_or_named_by_no_place(
    starting: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    server = starting(output=folder)
    asked = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1}
    with server.client() as client:
        folder.rmdir()
        assert client.post("/v1/images/generations", json=asked).status_code == 200
        (picture,) = folder.iterdir()
        picture.unlink()
        folder.rmdir()
        folder.write_text("no folder")
        answer = client.post("/v1/images/generations", json=asked)
    assert answer.status_code == 503
    assert "the server's folder of pictures" in answer.text
    assert str(tmp_path) not in answer.text


def test_pictures_are_kept_whole_in_a_folder(starting: Callable[..., Any], tmp_path: Path) -> None:
    server = starting(output=tmp_path)
    body = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "seed": 3}
    with server.client() as client:
        client.post("/v1/images/generations", json=body)
    assert [path.name for path in tmp_path.iterdir()] == ["a-cat-3.png"]
