"""`sana mcp`: draw for assistants by the Model Context Protocol."""

from typing import Annotated

import typer

from sana_cli.errors import ExitCode, SanaError
from sana_cli.terminal.options import MaxMemoryOption, ServedModelsOption, refuse_empty


def mcp(
    models: ServedModelsOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            show_default=False,
            help="Folder that keeps the pictures of assistants; created if missing [default: Pictures/sana in your home]",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL|auto|off",
            show_default=False,
            help="Server that draws [default: SANA_SERVER, else your running one]",
        ),
    ] = None,
    max_memory: MaxMemoryOption = None,
) -> None:
    """Draw for assistants over the Model Context Protocol.

    Its tools are generate_image, edit_image and list_models. Programs start this command themselves; docs/server.md shows how.
    """
    refuse_empty({"--models": models, "--output": output})
    _require_sdk()
    import platformdirs

    from sana_cli.config.choices import parse_bytes
    from sana_cli.config.user_settings import preferences
    from sana_cli.files import local_path, make_folder
    from sana_cli.remote.choice import chosen_server
    from sana_cli.server.mcp_tools import Studio, make_server
    from sana_cli.server.served_models import ServedModels, split_names

    chosen = preferences()
    size = max_memory or chosen.options.max_memory
    folder = local_path(output) if output else platformdirs.user_pictures_path() / "sana"
    if output:
        make_folder(folder)
    studio = Studio(
        models=ServedModels(split_names(models), default=chosen.options.model),
        folder=folder,
        server=chosen_server(server, local=False),
        max_memory=parse_bytes(size) if size else None,
    )
    try:
        make_server(studio).run("stdio")
    finally:
        studio.close()


def _require_sdk() -> None:
    from importlib.util import find_spec

    from sana_cli.system.packages import pip_install

    if find_spec("mcp") is None:
        raise SanaError(
            "`sana mcp` needs the SDK of the Model Context Protocol, which is not installed here",
            hint=pip_install("mcp"),
            code=ExitCode.ENVIRONMENT,
        )
