"""`sana serve`: keep models loaded, and draw for programs and pages."""

import os
import re
import sys
from typing import Annotated

import typer

from sana_cli.errors import ExitCode, SanaError, require, usage_error
from sana_cli.terminal.options import (
    MaxMemoryOption,
    OfflineOption,
    QuietOption,
    SafetyOption,
    ServedModelsOption,
    refuse_empty,
)
from sana_cli.text import say

DEFAULT_PORT = 7262  # "sana" on a telephone
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SHORTEST_KEY = 16  # characters


def serve(
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Address to listen on; all but loopback need a key."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(metavar="PORT", help="Port to listen on; 0: a free one.", min=0, max=65535),
    ] = DEFAULT_PORT,
    models: ServedModelsOption = None,
    keep_alive: Annotated[
        str,
        typer.Option(
            "--keep-alive",
            metavar="TIME",
            help="How long an idle model stays in memory: 5m, 30s, forever.",
        ),
    ] = "5m",
    max_memory: MaxMemoryOption = None,
    queue: Annotated[
        int,
        typer.Option(
            metavar="N", help="Requests that may wait; more are refused.", min=1, max=100_000
        ),
    ] = 64,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            show_default=False,
            help="Folder that keeps the pictures of clients and of the page; created if missing [default: none, pictures end with the server]",
        ),
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            show_default=False,
            help="Require one of the keys in this file, one per line [default: SANA_API_KEY, else none]",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="HOST",
            show_default=False,
            help="Also answer to this host name; repeat for several.",
        ),
    ] = None,
    drain: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Time to finish waiting and running pictures after SIGTERM."
        ),
    ] = "30s",
    safety: SafetyOption = None,
    offline: OfflineOption = None,
    quiet: QuietOption = None,
) -> None:
    """Keep models loaded and draw for programs over HTTP.

    Clients of OpenAI and of AUTOMATIC1111's web UI can draw with it. Where a server runs, `sana generate` and `sana repl` draw with it, and answer at once. Ctrl-C or SIGTERM ends it
    when what runs is drawn.
    """
    refuse_empty(
        {"--models": models, "--output": output, "--api-key-file": api_key_file, "--host": host}
    )
    refuse_empty({"--name": min(name or ["-"])})
    keys = _keys(api_key_file)
    address = "127.0.0.1" if host == "localhost" else host
    if host not in _LOOPBACK and not keys:
        raise usage_error(
            f"--host {host} lets others in, and no key is set",
            "name a file with a key: --api-key-file FILE, or set SANA_API_KEY",
        )
    _require_installed()
    from sana_cli.config.choices import parse_bytes
    from sana_cli.config.user_settings import preferences
    from sana_cli.files import local_path, make_folder
    from sana_cli.pipeline.safety import SafetyCheck
    from sana_cli.server.forecast import require_room
    from sana_cli.server.limits import Limits
    from sana_cli.server.run import Serving, run
    from sana_cli.server.served_models import ServedModels, split_names

    chosen = preferences()
    folder = local_path(output) if output else None
    if folder is not None:
        make_folder(folder)
    asked = max_memory or chosen.options.max_memory
    cap = parse_bytes(asked) if asked else None
    serving = Serving(
        host=address,
        port=port,
        models=ServedModels(
            split_names(models), default=chosen.options.model, offline=chosen.is_offline(offline),
        ),
        limits=Limits(queue=queue, drain_seconds=_seconds("--drain", drain) or 0.0),
        keys=keys,
        names=_host_names(name or []),
        max_memory=cap,
        keep_alive=_seconds("--keep-alive", keep_alive),
        output=folder,
        safety=SafetyCheck.find(chosen.safety_model, set_by=chosen.check_source(safety)) if chosen.is_checked(safety) else None,
        log=None if chosen.is_quiet(quiet) else sys.stderr,
    )  # fmt: skip

    require_room(serving.models, cap)

    def listening(host: str, port: int, stop: object) -> None:
        del stop  # signals end it
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{port}")
        sys.stdout.flush()

    run(serving, listening=listening)


def _host_names(names: list[str]) -> tuple[str, ...]:
    """Names as the Host header has them. SanaError for what no such header can hold."""
    for name in names:
        require(
            re.fullmatch(r"[\w.-]+", name, re.ASCII) is not None,
            f"--name {name!r} is no host name",
            "give the name alone, without a port: --name pictures.example.org",
        )
    return tuple(name.lower() for name in names)


def _seconds(option: str, text: str) -> float | None:
    """Read a time: 90, 30s, 5m, 2h; None for "forever"."""
    if text in ("forever", "-1") and option == "--keep-alive":
        return None
    found = re.fullmatch(r"(\d{1,6})(s|m|h|)", text.strip().lower())
    if found is None:
        words = ", or forever" if option == "--keep-alive" else ""
        raise usage_error(f"{option} cannot be {text!r}", f"use a time: 30s, 5m, 2h{words}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _keys(file: str | None) -> tuple[str, ...]:
    """The keys of a file or of SANA_API_KEY. SanaError for a file without keys, or a key that can be guessed."""
    from quant.files import read_small_text
    from sana_cli.files import local_path

    if file is None:
        said = os.environ.get("SANA_API_KEY", "").strip()
        keys, where = ([said] if said else []), "SANA_API_KEY"
    else:
        where = file
        try:
            lines = read_small_text(local_path(file), 2**16).splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise usage_error(
                f"cannot read the keys in {file}: {reason}", "write one key a line"
            ) from error
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        require(bool(keys), f"{file} holds no key", "write one key a line")
    require(
        all(len(key) >= _SHORTEST_KEY and key.isascii() for key in keys),
        f"a key in {where} is shorter than {_SHORTEST_KEY} characters, or not plain ASCII",
        "make one: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
    )
    return tuple(keys)


def _require_installed() -> None:
    """SanaError where the packages of the extra are missing."""
    from importlib.util import find_spec

    from sana_cli.system.packages import pip_install

    packages = ("starlette", "uvicorn", "msgspec", "prometheus-client", "python-multipart")
    missing = [name for name in packages if find_spec(name.replace("-", "_")) is None]
    if missing:
        raise SanaError(
            f"`sana serve` needs packages that are not installed here: {', '.join(missing)}",
            hint=pip_install(*missing),
            code=ExitCode.ENVIRONMENT,
        )
