"""Options of `sana serve`, `sana mcp` and `sana ps`, looked at before anything listens."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.config.choices import parse_bytes
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.params import resolve
from sana_cli.request.runtime import runtime_of
from sana_cli.server.forecast import require_plan, require_room
from sana_cli.server.served_models import ServedModels, split_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--models", ","), "--models ',' has an empty name"), (("--models", "builtin,,x"), "has an empty name"),
        (("--models", " "), "has an empty name"), (("--models", ""), "--models is empty"),
        (("--name", ""), "--name is empty"), (("--name", "a.example", "--name", ""), "--name is empty"),
        (("--name", "a.example:80"), "is no host name"), (("--name", "a b"), "is no host name"),
        (("--name", "http://a"), "is no host name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_empty_and_odd_names_are_refused(
    sana: Callable[..., Any], options: tuple[str, ...], message: str
) -> None:
    commands = ("serve", "mcp") if "--models" in options else ("serve",)
    for command in commands:
        done = sana(command, *options)
        assert (done.code, message in done.err) == (2, True), done.err


@pytest.mark.parametrize("command", ["serve", "mcp"])
@pytest.mark.parametrize("place", ["file", "file/in"])
def test_output_that_can_be_no_folder(
    sana: Callable[..., Any], tmp_path: Path, command: str, place: str
) -> None:
    (tmp_path / "file").write_text("")
    done = sana(command, "--output", tmp_path / place, "--models", "builtin")
    assert done.code != 0
    assert str(tmp_path / "file") in done.err, done.err


@pytest.mark.parametrize(
    ("host", "hint"),
    [
        ("127.0.0.1", "another server may run there"), ("192.0.2.1", "name an address of this machine"),
        ("name.invalid", "name an address of this machine"), ("é..x", "name an address of this machine"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_taken(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, host: str, hint: str
) -> None:
    """One that is taken, one of another machine (RFC 5737), and names of none."""
    monkeypatch.setenv("SANA_API_KEY", "k" * 16)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = sana("serve", "--host", host, "--port", port, "--models", "builtin")
    assert done.code == ExitCode.ENVIRONMENT
    assert f"cannot listen on {host}, port {port}: " in done.err
    assert f"hint: {hint}" in done.err


def test_a_cap_that_no_model_fits(sana: Callable[..., Any]) -> None:
    done = sana("serve", "--max-memory", "100MiB", "--port", 0, "--models", "builtin")
    assert done.code == ExitCode.USAGE
    assert "no model of this server can draw a picture under --max-memory 100 MiB" in done.err
    least = re.search(
        r"hint: use (--max-memory \d+MiB) or more, which is enough for builtin", done.err
    )
    assert least is not None, done.err
    models, cap = ServedModels(("builtin",), default=None), parse_bytes(least[1].split()[1])
    require_room(models, cap)
    require_room(models, None)
    checkpoint = models.open("builtin")
    options = GenerationOptions(prompt="a small cat left of a large pizza")
    params, runtime = resolve(options, checkpoint), runtime_of(options, checkpoint)
    require_plan(checkpoint, runtime, params, cap)


def test_models_are_split_alike() -> None:
    assert split_names(" a , /b c/d ") == ("a", "/b c/d")
    assert split_names(None) == ()
    with pytest.raises(SanaError):
        split_names("a,")


def test_ps_says_how_two_entries_of_one_model_differ(
    starting: Callable[..., Any], sana: Callable[..., Any], tmp_path: Path
) -> None:
    server = starting()
    small = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "stream": True}
    with server.client() as client:
        for options in ({}, {"decode": "exact-tiles", "tile": 64}):
            assert client.post("/v1/jobs", json={**small, **options}).status_code == 200
    lines = [line for line in sana("ps").out.splitlines() if line.strip().startswith("builtin")]
    assert len(lines) == 2
    assert len({line.split("left")[1].strip() for line in lines}) == 2
    assert any("tile 64" in line for line in lines), lines
