"""Typer options that several commands share."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from sana_cli.config.choices import Decode, Device, parse_seed
from sana_cli.config.generation import FIELDS, GenerationOptions
from sana_cli.errors import usage_error
from sana_cli.terminal.completion import complete_model

OfflineOption = Annotated[
    bool | None,
    typer.Option(
        "--offline/--online",
        help="Use downloaded files only; never touch the network [default: your setting, else online]",
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
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL|auto|off",
        help="Draw with a running `sana serve` [default: SANA_SERVER, else auto: yours, if one of this version runs]",
        show_default=False,
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS|auto|local]",
        help="Draw --prompts on a Ray cluster: HOST:PORT; local: start Ray here; auto, or no value: RAY_ADDRESS, "
        "else the Ray that runs here, else as local",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        "--workers",
        metavar="N|MIN-MAX",
        help="Processes of --ray, each with a model [default: as many as memory, cores and GPUs allow]",
        show_default=False,
    ),
]
ManifestOption = Annotated[
    str | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="Record of each picture of --ray, .jsonl or .parquet "
        "[default: manifest.jsonl next to the pictures]",
        show_default=False,
    ),
]
LocalOption = Annotated[
    bool, typer.Option("--local", help="Draw without a server; the same as --server off.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to every question.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
QuietOption = Annotated[
    bool | None,
    typer.Option(
        "--quiet/--no-quiet", "-q", help="Show no progress and no notices.", show_default=False
    ),
]


def refuse_empty(values: Mapping[str, str | None]) -> None:
    """SanaError for an option that was given nothing: mostly an unset variable of a script."""
    for option, value in values.items():
        if value == "":
            raise usage_error(f"{option} is empty", f"omit {option}")


def flag(name: str) -> Any:
    """The Typer option of a field of `GenerationOptions`."""
    option = FIELDS[name].option
    own: dict[str, Any] = {"metavar": option.metavar, "help": option.help, "show_default": False}
    if name == "seed":
        own["parser"] = parse_seed
    if name == "model":
        own["autocompletion"] = complete_model
    return typer.Option(*option.flags, **own)


DeviceOption = Annotated[Device | None, flag("device")]
DecoderOption = Annotated[str | None, flag("decoder")]
DecodeOption = Annotated[Decode | None, flag("decode")]
TileOption = Annotated[int | None, flag("tile")]
MaxMemoryOption = Annotated[str | None, flag("max_memory")]
LoraOption = Annotated[list[str] | None, flag("loras")]
ModelOption = Annotated[str | None, flag("model")]
ServedModelsOption = Annotated[
    str | None,
    typer.Option(
        "--models",
        metavar="A,B",
        show_default=False,
        help="Models that may be used, the default one first [default: all on this machine]",
    ),
]


def _annotation(name: str) -> Any:
    field = FIELDS[name]
    if field.option.sweep and (field.option.choices or field.value in ("whole number", "number")):
        option = flag(name)
        option.parser = functools.partial(_one_or_several, name)
        if field.option.choices:
            choices = list(field.option.choices)
            option.metavar, option.autocompletion = f"[{'|'.join(choices)}]", lambda: choices
        return Annotated[str | None, option]
    kinds: dict[str, Any] = {
        "text": str, "whole number": int, "number": float, "true or false": bool, "texts": list[str],
    }  # fmt: skip
    return Annotated[(field.option.choices or kinds[field.value]) | None, flag(name)]


def _one_or_several(name: str, text: str) -> Any:
    """Read a value, or the values of a sweep as an `Axis`. typer.BadParameter for what is neither."""
    from sana_cli.request.sweep import axis_of

    field = FIELDS[name]
    if (axis := axis_of(name, text)) is not None:
        return axis
    if name == "seed":
        return parse_seed(text)
    if field.option.choices:
        if text not in list(field.option.choices):
            known = ", ".join(map(repr, map(str, field.option.choices)))
            raise typer.BadParameter(f"{text!r} is not one of {known}.")
        return text
    kind, noun = (int, "int") if field.value == "whole number" else (float, "float")
    try:
        return kind(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a valid {noun}.") from error


def _axis_in(name: str, value: Any) -> Any:
    """Return the axis of a sweep that an option's value is; None for a plain value."""
    from sana_cli.request.sweep import Axis, axis_of

    if isinstance(value, Axis) or value is None or not FIELDS[name].option.sweep:
        return value if isinstance(value, Axis) else None
    texts = value if isinstance(value, list) else [value]
    if len(texts) != 1 or not isinstance(texts[0], str) or "," not in texts[0]:
        return None
    return axis_of(name, texts[0])


def with_generation_options(
    *, first: tuple[str, ...], only: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command every option of the table, or `only` some, and call it with what was typed as `typed`.

    A command with a parameter `axes` gets a list of `Axis` there: options with several values, which `typed` lacks.
    The command keeps its other parameters: positional ones come after the fields in `first`, keyword-only ones after
    all fields.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        fields = [f for f in FIELDS.values() if f.option.flags and (not only or f.word in only)]
        parameters = inspect.signature(command).parameters
        own = [p for p in parameters.values() if p.name not in ("typed", "axes")]
        keyword = inspect.Parameter.KEYWORD_ONLY
        table = {
            f.word: inspect.Parameter(f.word, keyword, default=None, annotation=_annotation(f.name))
            for f in fields
        }
        order = [
            *(table.pop(word) for word in first),
            *(p for p in own if p.kind != keyword),
            *table.values(),
            *(p for p in own if p.kind == keyword),
        ]

        @functools.wraps(command)
        def called(**values: Any) -> Any:
            said: dict[str, Any] = {}
            axes: list[Any] = []
            for field in fields:
                value = values.pop(field.word)
                if field.name != "negative_prompt":
                    empty = "" in value if isinstance(value, list) else value == ""
                    refuse_empty({field.option.flags[0]: "" if empty else None})
                if "axes" in parameters and (axis := _axis_in(field.name, value)) is not None:
                    axes.append(axis)
                    value = None
                said[field.name] = (tuple(value) or None) if isinstance(value, list) else value
            if "axes" in parameters:
                values["axes"] = axes
            return command(typed=GenerationOptions(**said), **values)

        del called.__wrapped__  # its signature is not the one to be read
        called.__signature__ = inspect.Signature([p.replace(kind=keyword) for p in order])  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in order}
        return called

    return decorate
