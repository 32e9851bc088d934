"""`--server URL|auto|off`, `--local` and SANA_SERVER: which server draws, if any. Nothing is started. No torch."""

import os
from typing import TYPE_CHECKING

from sana_cli import __version__
from sana_cli.config.generation import GenerationOptions, uses_hed
from sana_cli.errors import ExitCode, SanaError, usage_error

if TYPE_CHECKING:
    from sana_cli.remote.artist import ServerChoice

AUTO, OFF = "auto", "off"


def chosen_server(typed: str | None, *, local: bool) -> str:
    """Read the options and SANA_SERVER: "auto", "off" or an address. SanaError for two that contradict each other."""
    if local and typed not in (None, OFF):
        raise usage_error("give --local or --server, not both", "omit --local")
    if local:
        return OFF
    return typed or os.environ.get("SANA_SERVER", "").strip() or AUTO


def find_server(chosen: str) -> "ServerChoice | None":
    """The server that is to draw; None: draw here. SanaError where an address was given and no such server answers there."""
    if chosen == OFF:
        return None
    if chosen == AUTO:
        from sana_cli.remote.state_file import running_servers

        if not running_servers():  # without the modules of a connection
            return None
        from sana_cli.remote.artist import ServerChoice
        from sana_cli.remote.connection import own_server

        own = own_server()
        return ServerChoice(f"the server on port {own.port}", own) if own else None
    from sana_cli.remote.artist import ServerChoice
    from sana_cli.remote.connection import Answer, Connection, ServerLost

    key = os.environ.get("SANA_API_KEY", "").strip()
    if not key.isprintable() or any(ord(sign) > 255 for sign in key):
        raise usage_error(
            "SANA_API_KEY holds characters that no key has", "set it to one line of the key file"
        )
    try:
        found = Connection.to(chosen, key)
    except (ServerLost, Answer) as error:
        said, hint = f"no server of sana draws at {chosen}", "start one there: sana serve; or "
        if isinstance(error, Answer) and error.status == 401:
            said, hint = f"the server at {chosen} {about_key(key)}", ""
        raise SanaError(
            said, hint=f"{hint}draw here: --local", code=ExitCode.ENVIRONMENT
        ) from error
    if found.version != __version__:
        raise SanaError(
            f"the server at {chosen} is sana {found.version}, this is {__version__}: its pictures may differ",
            hint="install the same version in both places, or draw here: --local",
            code=ExitCode.ENVIRONMENT,
        )
    return ServerChoice(f"the server at {chosen}", found, chosen, key)


def about_key(key: str) -> str:
    """Say what a server that requires a key does with this one; "": without one."""
    if key:
        return "does not accept the key in SANA_API_KEY: set it to a key of that server"
    return "asks for a key: set SANA_API_KEY"


def only_here(options: GenerationOptions, *, checks: bool, server_checks: bool = False) -> str:
    """The reason why a server cannot draw this; "" where it can."""
    if options.loras:
        return "takes no LoRA files"
    if options.control_hed and uses_hed(options):
        return "takes no other HED network"
    return "checks no prompts" if checks and not server_checks else ""
