"""The native API of jobs, over a real connection."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest

from sana_cli.server.limits import Limits

SMALL = {"width": 64, "height": 64, "steps": 2}
LONG = {"prompt": "a ship", "steps": 200, "width": 256, "height": 256}


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def finished(client: httpx.Client, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        said: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
        if said["status"] in ("done", "failed", "cancelled"):
            return said
        time.sleep(0.05)
    raise AssertionError(said)


def test_a_job_draws_the_file_that_the_library_writes(
    server: Any, expected: Callable[..., bytes]
) -> None:
    with server.client() as client:
        made = client.post("/v1/jobs", json={"prompt": "a cat", "seed": 3, "count": 2, **SMALL})
        assert made.status_code == 202
        job = finished(client, made.json()["id"])
        assert (job["status"], job["seeds"], job["error"]) == ("done", [3, 4], None)
        for picture in job["pictures"]:
            drawn = client.get(picture["url"])
            assert drawn.headers["content-type"] == "image/png"
            assert drawn.content == expected("a cat", seed=picture["seed"])


@pytest.mark.parametrize(
    "options",
    [
        {"upscale": 2, "upscale_strength": 0.5},
        {"pag": "2"},
        {"pag": 2},
        {"upscale": 2, "upscale_strength": 0.5, "pag": "2"},
    ],
    ids=lambda options: " ".join(options),
)
def test_a_job_takes_what_the_library_takes(
    server: Any, expected: Callable[..., bytes], options: dict[str, Any]
) -> None:
    with server.client() as client:
        asked = {"prompt": "a cat", "seed": 3, **SMALL, **options}
        job = finished(client, client.post("/v1/jobs", json=asked).json()["id"])
        assert job["error"] is None, job
        drawn = client.get(job["pictures"][0]["url"])
    assert drawn.content == expected("a cat", seed=3, **options)


def test_wildcards_are_those_of_the_command(server: Any) -> None:
    """Their files are the user's, and no request names a folder."""
    with server.client() as client:
        said = client.post("/v1/jobs", json={"prompt": "a {red|blue} cat", "wildcards": True})
    assert said.status_code in (400, 422), said.text
    assert "wildcards" in said.text


def test_a_stream_tells_everything_and_brings_the_file(
    server: Any, expected: Callable[..., bytes]
) -> None:
    body = {"prompt": "a cat", "seed": 3, "stream": True, "keep": False, "previews": True, **SMALL}
    with server.client() as client, client.stream("POST", "/v1/jobs", json=body) as response:
        told = list(events(response))
    names = [name for name, _ in told]
    assert (names[0], names[-2:]) == ("queued", ["picture", "done"])
    steps = [data["step"] for name, data in told if name == "step"]
    assert steps == [1, 2][2 - len(steps) :], (
        "a warm server may be done with some before the stream begins"
    )
    picture = told[-2][1]
    assert base64.b64decode(picture["png"]) == expected("a cat", seed=3)
    assert picture["settings"]["prompt"] == "a cat"


def test_closing_a_stream_cancels_its_job(server: Any) -> None:
    with server.client() as client:
        with client.stream("POST", "/v1/jobs", json={**LONG, "stream": True}) as response:
            job = response.headers["x-sana-job"]
            next(name for name, _ in events(response) if name == "step")
        assert finished(client, job)["status"] == "cancelled"


def test_delete_cancels_what_runs_and_what_waits(server: Any) -> None:
    with server.client() as client:
        jobs = [client.post("/v1/jobs", json=LONG).json()["id"] for _ in range(2)]
        for job in reversed(jobs):
            assert client.delete(f"/v1/jobs/{job}").status_code in (200, 202)
        assert [finished(client, job)["status"] for job in jobs] == ["cancelled"] * 2


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "the prompt is empty"),
        ({"prompt": "a cat", "steps": 0}, 400, "steps"),
        ({"prompt": "a cat", "stepz": 3}, 400, "stepz"),
        ({"prompt": "a cat", "width": 100, "height": 100}, 400, "100x100"),
        ({"prompt": "a cat", "seed": 2**64}, 400, "seed"),
        ({"prompt": "a cat", "seed": -1}, 400, "seed"),
        ({"prompt": "a cat", "guidance_scale": 10**400}, 400, "guidance_scale"),
        ({"prompt": "a cat", "count": 1000}, 400, "too many"),
        ({"prompt": "a cat", "steps": 1000}, 400, "too many"),
        ({"prompt": "a cat", "width": 4096, "height": 8192}, 400, ""),
        ({"prompt": "a cat", "model": "../../etc"}, 404, "no model"),
        ({"prompt": "a cat", "output": "/tmp/x.png"}, 400, "output"),
        ({"prompt": "a cat", "loras": ["/tmp/x"]}, 400, "loras"),
        ({"prompt": "a cat", "image": "/etc/passwd"}, 400, "image"),
        ({"prompt": "a cat", "image": {"data": "%%%"}}, 400, "base64"),
        ({"prompt": "a cat", "image": {"data": "aGFsbG8="}}, 400, "image"),
        ({"prompt": "a\0cat"}, 400, ""),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_at_once(
    server: Any, body: dict[str, Any], status: int, words: str
) -> None:
    with server.client() as client:
        for path in ("/v1/jobs", "/v1/jobs/check"):
            answer = client.post(path, json=body)
            assert answer.status_code == status
            error = answer.json()["error"]
            assert words in error["message"]
            assert "/tmp" not in error["message"] + error["hint"]


@pytest.mark.parametrize(
    ("agent", "words"),
    [("curl/8", "strength needs a picture"), ("sana/0", "--strength needs a picture")],
)  # fmt: skip
def test_errors_name_fields_where_no_command_shows_them(
    server: Any, agent: str, words: str
) -> None:
    with server.client(headers={"User-Agent": agent}) as client:
        body = {"prompt": "a cat", "strength": 0.5}
        said = client.post("/v1/jobs/check", json=body).json()["error"]
    assert said["message"] == words


def test_check_tells_what_would_be_drawn(server: Any) -> None:
    with server.client() as client:
        said = client.post("/v1/jobs/check", json={"prompt": "a cat", "seed": 3, **SMALL}).json()
    assert said == {
        "model": "builtin", "pictures": [{"seed": 3, "width": 64, "height": 64, "steps": 2}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"width": 4096, "height": 4096}, "no plan fits into 400 MiB, set by the server's `--max-memory`"),
        ({"max_memory": "100MiB"}, "no plan fits into 100 MiB: "),
        ({"max_memory": 100 * 2**20}, "no plan fits into 100 MiB: "),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_memory_allows_is_refused_before_it_waits(
    starting: Callable[..., Any], body: dict[str, Any], words: str
) -> None:
    server = starting(max_memory=400 * 2**20)
    with server.client() as client:
        for path in ("/v1/jobs", "/v1/jobs/check"):
            answer = client.post(path, json={"prompt": "a cat", **SMALL, **body})
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert words in error["message"]
            if "server" in words:
                assert error["hint"].startswith("start the server with `sana serve --max-memory 1.")


def test_an_uploaded_picture_is_stored_by_the_client_s_name(
    server: Any, picture_file: bytes
) -> None:
    upload = {"data": base64.b64encode(picture_file).decode(), "name": "~/private/cat.png"}
    body = {"prompt": "a cat", "seed": 3, "steps": 2, "image": upload, "stream": True}
    with server.client() as client, client.stream("POST", "/v1/jobs", json=body) as response:
        told = dict(events(response))
    assert told["picture"]["settings"]["image"] == "~/private/cat.png"


@pytest.fixture(scope="module")
def picture_file() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(file, format="PNG")
    return file.getvalue()


def test_a_stream_ends_before_a_stage_that_does_not_end_in_time(
    starting: Callable[..., Any], before_computing: Callable[..., Any]
) -> None:
    """Its last event says that the server ended, while the picture is still being decoded."""
    server = starting(limits=Limits(drain_seconds=0.0), grace_seconds=5.0)
    streamed = threading.Event()

    def stop_and_wait() -> None:
        server.stop()
        assert streamed.wait(60)

    body = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "stream": True}
    with before_computing("decode", stop_and_wait), server.client() as client:
        with client.stream("POST", "/v1/jobs", json=body) as response:
            told = list(events(response))
        streamed.set()
        server.thread.join(60)
    name, data = told[-1]
    assert (name, data["server_ended"]) == ("failed", True)
    assert data["error"]["hint"] == "send the request again"
    assert not server.thread.is_alive()


def test_a_stage_that_does_not_end_in_time_ends_no_other_program(
    starting: Callable[..., Any],
) -> None:
    """Only the command ends its process; whoever runs a server in one of its own continues."""
    server = starting(limits=Limits(drain_seconds=0.0), grace_seconds=0.0)
    with server.client() as client:
        job = client.post(
            "/v1/jobs", json={"prompt": "a cat", "width": 64, "height": 64, "steps": 200}
        )
        assert job.status_code == 202
        while client.get(f"/v1/jobs/{job.json()['id']}").json()["status"] == "queued":
            time.sleep(0.01)
        server.stop()
        server.thread.join(60)
    assert not server.thread.is_alive()
