"""`sana generate` and `sana repl` with a running server: what they leave is what they leave alone."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sana_cli import __version__
from sana_cli.checkpoints.checkpoint import weight_headers
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import ExitCode
from sana_cli.server.limits import Limits

SMALL = ("--size", "64x64", "--steps", 2, "--seed", 3)
NOTE = "note: drawn by the server on port "


def words(text: str) -> list[str]:
    """Lines without the one on who drew, and without seconds and memory."""
    lines = [line for line in text.splitlines() if not line.startswith((NOTE, "note: plan:"))]
    return [line for line in lines if "seconds:" not in line and "memory:" not in line]


def is_listening(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port)):
            return True
    except OSError:
        return False


@pytest.fixture
def both(server: Any, sana: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Run a command with the server and here."""

    def run(*arguments: object, **more: Any) -> tuple[Any, Any]:
        with_server = sana(*arguments, "--server", "auto", **more)
        return with_server, sana(*arguments, "--local", "--force", **more)

    return run


@pytest.mark.parametrize(
    "options",
    [(), ("--count", 2), ("--negative", "a dog"), ("--scheduler", "flow-euler"), ("--grid", "-n", 2)],
    ids=lambda o: " ".join(map(str, o)) or "plain",
)  # fmt: skip
def test_files_and_words_are_those_of_the_local_command(
    both: Callable[..., tuple[Any, Any]], tmp_path: Path, options: tuple[object, ...]
) -> None:
    found = {}

    def left(result: Any) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(tmp_path.glob("*.png"))}

    arguments = ("generate", "a cat", *SMALL, *options, "-o", tmp_path / "a.png")
    with_server, here = both(*arguments)
    found = left(with_server)
    assert (with_server.code, here.code) == (0, 0), with_server.err + here.err
    assert NOTE in with_server.err
    assert NOTE not in here.err
    assert words(with_server.out) == words(here.out)
    assert words(with_server.err) == words(here.err)
    assert found
    assert found == left(here)


@pytest.mark.parametrize("output", ["new/{seed}.png", "new/"])
def test_folders_are_made_for_pictures_alone(
    both: Callable[..., tuple[Any, Any]], tmp_path: Path, output: str
) -> None:
    command = ("generate", "a cat", *SMALL, "--seed", 7, "-o", f"{tmp_path}/{output}")
    for done in both(*command, "--size", "100000x100000"):
        assert done.code == ExitCode.USAGE
    assert list(tmp_path.iterdir()) == []
    for done in both(*command):
        assert done.code == 0, done.err
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".png"]


def test_a_picture_is_redrawn_and_repeated_alike(
    both: Callable[..., tuple[Any, Any]], tmp_path: Path
) -> None:
    original = tmp_path / "original.png"
    assert both("generate", "a cat", *SMALL, "-o", original)[0].code == 0
    for number, arguments in enumerate([
        ("a tree", *SMALL, "--image", original, "--strength", "0.6"),
        ("--from", original),
    ]):  # fmt: skip
        path = tmp_path / f"{number}.png"
        command = ("generate", *arguments, "-o", path)
        with_server = both(*command)[0]
        assert NOTE in with_server.err
        here = path.read_bytes()
        path.unlink()
        both(*command)[0]
        assert path.read_bytes() == here


def test_a_file_of_prompts_and_json_are_alike(
    server: Any, sana: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    left, told = [], []
    for name, choice in (("one", "auto"), ("two", "off")):
        folder = tmp_path / name
        done = sana(
            "generate", "--prompts", tmp_path / "p.txt", *SMALL, "-o", f"{folder}/", "--json",
            "--server", choice,
        )  # fmt: skip
        assert done.code == 0, done.err
        documents = [json.loads(line) for line in done.out.splitlines()]
        varying = ("path", "seconds", "peak_memory_bytes", "predicted_peak_bytes", "plan")
        told.append([{k: v for k, v in d.items() if k not in varying} for d in documents])
        left.append([path.read_bytes() for path in sorted(folder.glob("*.png"))])
    assert left[0] == left[1]
    assert len(left[0]) == 2
    assert told[0] == told[1]


def test_the_repl_draws_with_the_server(
    server: Any, sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = []
    for folder, choice in ((tmp_path / "one", "auto"), (tmp_path / "two", "off")):
        folder.mkdir()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a cat\n/seed 4\na dog\n")))
        done = sana("repl", *SMALL, "-o", folder, "--server", choice)
        assert done.code == 0, done.err
        assert (NOTE in done.err) == (choice == "auto")
        left.append({path.name: path.read_bytes() for path in folder.glob("*.png")})
    assert left[0] == left[1]
    assert len(left[0]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("a cat", "--steps", 0), ("a cat", "--size", "100x100"), ("", "--seed", 3), ("a cat", "--seed", "-4"),
        ("a cat", "-n", 0), ("a cat", "--guidance", "-1"), ("a cat", "--strength", "0.5"),
        ("a cat", "--image", "/nonesuch.png"), ("a cat", "-o", "a.gif"), ("a cat", "-o", "/nonesuch/a.png"),
        ("a cat", "--scheduler", "scm"), ("a cat", "--cache", 7), ("a cat", "-m", "nonesuch"),
        ("a cat", "--guidance-interval", "0.9-0.1"), ("a cat", "--max-memory", "1MiB"),
        ("a cat", "--aspect", "0:1"), ("a cat", "-m", "builtin", "--backend", "torchao"),
    ],
    ids=lambda o: " ".join(map(str, o)),
)  # fmt: skip
def test_mistakes_are_worded_as_by_the_local_command(
    both: Callable[..., tuple[Any, Any]], arguments: tuple[object, ...]
) -> None:
    with_server, here = both("generate", *arguments)
    assert with_server.code == here.code != 0
    errors = [line for line in words(with_server.err) if not line.startswith("note: ")]
    assert errors == [line for line in words(here.err) if not line.startswith("note: ")]


def test_nothing_heavy_is_imported(server: Any, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom sana_cli.cli import main\n"
        f"code = main(['generate', 'a cat', '--size', '64x64', '--steps', '2', '-o', {str(tmp_path / 'a.png')!r}])\n"
        "heavy = {'torch', 'rich', 'numpy', 'PIL', 'safetensors', 'huggingface_hub', 'sana_cli.request.params',"
        " 'sana_cli.request.prompt_file', 'sana_cli.checkpoints.checkpoint', 'typer', 'http.client', 'ssl', 'email', 'secrets',"
        " 'ctypes', 'logging', 'platformdirs', 'tempfile', 'hashlib', 'encodings.idna'}"
        " & set(sys.modules)\n"
        "assert code == 0 and not heavy, heavy"
    )
    # Where the runtime folder is systemd's, or named, nobody looks for it; here it is in a folder of the tests. Settings,
    # and a history that another process writes, would be logged.
    place = os.environ | {
        "SANA_RUNTIME": f"{os.environ['XDG_RUNTIME_DIR']}/sana",
        "SANA_CONFIG": str(tmp_path / "no-config.toml"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=place
    )
    assert done.returncode == 0, done.stderr
    assert NOTE in done.stderr
    assert (tmp_path / "a.png").is_file()


def test_a_picture_that_a_server_loses_is_drawn_here(
    dying: str, sana: Callable[..., Any], expected: Callable[..., bytes], tmp_path: Path
) -> None:
    done = sana("generate", "a cat", *SMALL, "-o", tmp_path / "a.png", "--server", dying)
    assert done.code == 0, done.err
    assert "stopped in the middle: drawn here" in done.err
    assert (tmp_path / "a.png").read_bytes() == expected("a cat", seed=3)


def test_a_server_that_ends_leaves_the_rest_to_the_command(
    starting: Callable[..., Any],
    sana: Callable[..., Any],
    tmp_path: Path,
    before_computing: Callable[..., Any],
) -> None:
    ending = starting(limits=Limits(drain_seconds=0))
    address = ("127.0.0.1", ending.running.port)

    decoded: list[bool] = []

    def end_after_the_first() -> None:
        """The first is here, and the server has stopped to listen, before anybody draws a second picture."""
        deadline = time.monotonic() + 60
        while decoded and not (list(tmp_path.glob("*.png")) and not is_listening(*address)):
            assert time.monotonic() < deadline
            if list(tmp_path.glob("*.png")):
                ending.stop()
            time.sleep(0.01)

    options = ("--size", "64x64", "--steps", 2, "--seed", 3, "-n", 5)
    with (
        before_computing("denoise", end_after_the_first),
        before_computing("decode", lambda: decoded.append(True)),
    ):
        done = sana("generate", "a cat", *options, "-o", tmp_path / "a.png", "--server", ending.url)
    assert done.code == 0, done.err
    assert done.err.count("drawn here") == 1
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_a_server_scores_no_pictures(server: Any, sana: Callable[..., Any], tmp_path: Path) -> None:
    score = f"'{sys.executable}' -c 'for line in open(0): print(1, flush=True)'"
    words = ("generate", "a cat", *SMALL, "--best-of", 2, "--score", score, "-o")
    done = sana(*words, tmp_path / "a.png", "--server", "auto")
    assert (done.code, "scores no pictures: drawn here" in done.err) == (0, True), done.err
    insisted = sana(*words, tmp_path / "b.png", "--server", server.url)
    assert (insisted.code, "hint: draw here: --local" in insisted.err) == (3, True), insisted.err


def test_choices_that_cannot_work_are_refused(sana: Callable[..., Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        gone = sana("generate", "a cat", "--server", url)
    assert (gone.code, "no server of sana draws at" in gone.err) == (3, True)
    assert sana("generate", "a cat", "--server", "ftp://x/y").code == 2
    assert sana("generate", "a cat", "--local", "--server", "auto").code == 2


def test_another_version_is_left_alone(
    server: Any, sana: Callable[..., Any], tmp_path: Path
) -> None:
    from sana_cli.config.places import runtime_folder

    [path] = runtime_folder().glob(f"serve-{server.running.port}.json")
    before = path.read_text()
    try:
        path.write_text(before.replace(f'"{__version__}"', '"0.0.0"'))
        done = sana("generate", "a cat", *SMALL, "-o", tmp_path / "a.png")
    finally:
        path.write_text(before)
    assert (done.code, NOTE in done.err) == (0, False)


@pytest.fixture
def dying() -> Iterator[str]:
    """The address of a server that begins a stream of events, and is gone."""
    listener = socket.create_server(("127.0.0.1", 0))
    hello = json.dumps({"version": __version__}).encode()
    begun = b'event: queued\ndata: {"place": 1}\n\n'

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            connection.sendall(head % len(hello) + hello)
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + begun
            )

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(30)
    listener.close()


@pytest.mark.parametrize("place", ["lora", "lora of a sweep", "lora of a line"])
def test_what_a_server_does_not_take_is_drawn_here_wherever_it_is_said(
    server: Any, sana: Callable[..., Any], lora_files: Any, tmp_path: Path, place: str
) -> None:
    """Pictures of a batch have options of their own: none is dropped on the way."""
    headers = weight_headers(open_checkpoint("builtin"), "transformer")
    shapes = {name: shape for name, (_, shape) in headers.items()}
    halves = lora_files.random_lora(shapes, strength=3)
    lora = lora_files.write_lora(tmp_path / "l.safetensors", halves)
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "a cat", "lora": str(lora)}))
    what: tuple[object, ...] = {
        "lora": ("a cat", "--lora", lora), "lora of a sweep": ("a cat", "--lora", f"none,{lora}"),
        "lora of a line": ("--prompts", tmp_path / "p.jsonl"),
    }[place]  # fmt: skip
    left = []
    for name, choice in (("one", "auto"), ("two", "off")):
        done = sana("generate", *what, *SMALL, "-o", f"{tmp_path / name}/", "--server", choice)
        assert done.code == 0, done.err
        assert ("takes no LoRA files: drawn here" in done.err) == (choice == "auto")
        left.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.png")})
    assert left[0] == left[1]
    assert left[0]


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ((), "jpg"), (("--quality", 40), "jpg"), ((), "webp"), (("--quality", 80), "webp"), (("--quality", 80), "png"),
        (("--wildcards", "-n", 3), "png"), (("--wildcards", "--quality", 90), "jpg"), (("--decoder", "full"), "png"),
        (("--decoder", "DECODER"), "png"), (("--pag", "2:1"), "png"),
    ],
    ids=str,
)  # fmt: skip
def test_a_server_draws_other_formats_choices_and_decoders(
    server: Any, sana: Callable[..., Any], decoder_files: Any, tmp_path: Path, options: tuple[object, ...], suffix: str
) -> None:  # fmt: skip
    scaling = open_checkpoint("builtin").vae.scaling_factor
    decoder = decoder_files.write_tiny(tmp_path / "small", scaling_factor=scaling)
    words = [decoder if each == "DECODER" else each for each in options]
    left, told = [], []
    for choice in ("auto", "off"):
        folder = tmp_path / choice
        done = sana(
            "generate", "a {cat|dog|red {owl|fox}}", *SMALL, *words, "-o", f"{folder}/", "--format", suffix, "--json",
            "--server", choice,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert ("drawn by the server" in done.err, "drawn here" in done.err) == (
            choice == "auto",
            False,
        )
        left.append({path.name: path.read_bytes() for path in folder.iterdir()})
        told.append(
            [(image["seed"], image["settings"]) for image in json.loads(done.out)["images"]]
        )
    assert left[0] == left[1]
    assert len(left[0]) == (3 if "-n" in options else 1)
    assert told[0] == told[1]


def test_a_kept_picture_of_another_format_has_its_own_address(server: Any) -> None:
    body = {
        "prompt": "a cat",
        "seed": 3,
        "width": 64,
        "height": 64,
        "steps": 1,
        "format": "webp",
        "quality": 50,
    }
    with server.client() as client:
        job = client.post("/v1/jobs", json=body).json()
        client.get(job["events"])  # to the end
        picture = client.get(f"/v1/jobs/{job['id']}").json()["pictures"][0]
        assert picture["url"].endswith("/0.webp")
        answer = client.get(picture["url"])
        assert (answer.headers["content-type"], answer.content[8:12]) == ("image/webp", b"WEBP")
        assert client.get(picture["url"].replace("webp", "png")).status_code == 404
        assert picture["settings"]["quality"] == 50


@pytest.mark.parametrize("decoder", ["/etc", "../..", "builtin", "someone/somewhere"])
def test_another_client_names_no_decoder_of_the_disk_or_the_hub(server: Any, decoder: str) -> None:
    with server.client() as client:
        answer = client.post("/v1/jobs", json={"prompt": "a cat", "decoder": decoder})
    assert (answer.status_code, "decoder" in answer.json()["error"]["message"]) == (400, True)


def test_a_decoder_that_the_server_does_not_see_is_used_here(server: Any) -> None:
    """As where a service has a /tmp of its own."""
    key = {"Authorization": f"Bearer {server.running.secret}"}
    with server.client(headers=key) as client:
        answer = client.post("/v1/jobs", json={"prompt": "a cat", "decoder": "/nowhere/at/all"})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://127.0.0.1 x", "http://a:99999", "http://a\x01b", "http://"]
)
def test_addresses_that_are_none(sana: Callable[..., Any], address: str) -> None:
    done = sana("generate", "a cat", "--server", address)
    assert (done.code, "is no address of a server" in done.err) == (2, True), done.err


def test_a_host_that_cannot_be_looked_up_and_a_key_that_cannot_be_sent(
    sana: Callable[..., Any], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = sana("generate", "a cat", "--server", "http://é..x")
    assert (done.code, "no server of sana draws at" in done.err) == (3, True), done.err
    monkeypatch.setenv("SANA_API_KEY", "two\nlines")
    done = sana("generate", "a cat", "--server", server.url)
    assert (done.code, "SANA_API_KEY holds characters" in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "asks for a key: set SANA_API_KEY"),
        ("w" * 16, "does not accept the key in SANA_API_KEY: set it to a key of that server"),
    ],
    ids=["none", "wrong"],
)  # fmt: skip
def test_a_missing_and_a_wrong_key(
    starting: Callable[..., Any], sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:  # fmt: skip
    monkeypatch.setenv("SANA_API_KEY", key)
    server = starting(keys=("k" * 16,))
    done = sana("generate", "a cat", "--server", server.url)
    assert (done.code, f"the server at {server.url} {words}" in done.err) == (3, True), done.err


def test_a_server_says_why_it_cannot_draw(server: Any, sana: Callable[..., Any]) -> None:
    done = sana("generate", "a cat", "--device", "mps", "--server", server.url)
    assert done.code == ExitCode.ENVIRONMENT
    assert "draws nothing now (device mps is not available here)" in done.err


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "a\nb"}, {"host": ""}, {"port": 0}, {"port": 99_999_999}, {"pid": 10**30}, {"pid": -1},
        {"secret": "\ud800"},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_state_files_are_passed_over(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    from sana_cli.config.places import runtime_folder
    from sana_cli.remote.state_file import running_servers

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    runtime_folder().mkdir(mode=0o700)
    good = {"host": "127.0.0.1", "port": 1, "secret": "x", "pid": 1, "version": __version__}
    file = runtime_folder() / "serve-1.json"
    file.write_text(json.dumps(good))
    assert len(running_servers()) == 1
    file.write_text(json.dumps(good | wrong))
    assert running_servers() == []
    assert "no server runs" in sana("ps").err + sana("ps").out


def test_a_folder_is_the_same_model_in_every_folder(
    starting: Callable[..., Any], sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A server runs in another folder than the command, where the same name may be another model's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(tiny_model)
    own = starting(models=(str(tiny_model), "builtin"))
    done = sana("generate", "a cat", *SMALL, "-m", "m", "-o", "a.png", "--server", "auto")
    assert (done.code, NOTE in done.err) == (0, True), done.err
    own.end()
    starting(models=("builtin", "m"))
    (tmp_path / "other/m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")
    done = sana("generate", "a cat", *SMALL, "-m", "m", "--server", "auto")
    assert done.code == ExitCode.CHECKPOINT, "the folder here is no model"
    assert NOTE not in done.err


def test_the_notice_comes_also_where_a_picture_never_waited() -> None:
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.remote.artist import Artist

    class Connection:
        def events(self, path: str, document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
            yield from [("started", {}), ("done", {})]

    server: Any = SimpleNamespace(name="the server", insists=False, connection=Connection)
    said: list[str] = []
    reporter: Any = SimpleNamespace(notice=said.append)
    artist = Artist(server, reporter)
    assert not list(
        artist.draw(GenerationOptions(prompt="a cat"), [Path("a.png")], overwrite=False)
    )
    assert said == ["drawn by the server"]
