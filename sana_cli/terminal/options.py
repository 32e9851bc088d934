"""Typer options that several commands share."""

from collections.abc import Mapping
from typing import Annotated

import typer

from sana_cli.config.choices import BLENDED_TILE, EXACT_TILE, Decode, Device
from sana_cli.errors import ExitCode, SanaError

DeviceOption = Annotated[
    Device | None, typer.Option("--device", help="Where to run [default: auto]", show_default=False)
]
OfflineOption = Annotated[
    bool | None,
    typer.Option(
        "--offline/--online",
        help="Use downloaded files only; never touch the network [default: your setting, else online]",
        show_default=False,
    ),
]
DecodeOption = Annotated[
    Decode | None,
    typer.Option(
        "--decode",
        help="How to decode: whole, in exact tiles (less memory, no seams), or in blended tiles (upstream's way) "
        "[default: auto, whole if it fits]",
        show_default=False,
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        "--tile",
        metavar="PIXELS",
        help=f"Side of the tiles, a multiple of 32; means exact tiles "
        f"[default: {EXACT_TILE}; blended: {BLENDED_TILE}]",
        show_default=False,
    ),
]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Limit memory: 4GiB, 800MiB [default: free memory minus 10 %]",
        show_default=False,
    ),
]
SafetyOption = Annotated[
    bool | None,
    typer.Option(
        "--safety/--no-safety",
        help="Check the prompt with ShieldGemma-2b first; exit code 6 if refused [default: no-safety]",
        show_default=False,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="LoRA file for this model (.safetensors); repeat for several, they add up [default scale: 1]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
QuietOption = Annotated[
    bool | None,
    typer.Option(
        "--quiet/--no-quiet", "-q", help="No progress and no notices.", show_default=False
    ),
]


def refuse_empty(values: Mapping[str, str | None]) -> None:
    """SanaError for an option that was given nothing: mostly an unset variable of a script."""
    for option, value in values.items():
        if value == "":
            raise SanaError(f"{option} is empty", hint=f"omit {option}", code=ExitCode.USAGE)


def contradiction(one: str, other: str) -> SanaError:
    """Two options that cannot be given together, or an argument and an option."""
    return SanaError(f"give {one} or {other}, not both", hint=f"omit {one}", code=ExitCode.USAGE)
