"""`sana info`: what a model is and needs, or how a picture was made."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_cli.commands.completion import complete_model
from sana_cli.commands.seeing import show_picture
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.options import JsonOption, contradiction
from sana_cli.output import readable_bytes
from sana_cli.text import print_json, say, say_command, shortened

if TYPE_CHECKING:
    from sana_cli.checkpoint import Checkpoint
    from sana_cli.variants import Variant

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # by suffix; only PNGs of ours carry settings


def info(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FOLDER|PICTURE",
            help="A model's name or folder, or a PNG.",
            autocompletion=complete_model,
        ),
    ],
    show: Annotated[
        bool, typer.Option("--show", help="Show the picture, too, in the terminal.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what a model is and can draw, or how a picture was made."""
    if show and json:
        raise contradiction("--show", "--json")
    from sana_cli.checkpoint import local_path

    path = local_path(subject)
    is_picture = path.suffix.lower() in _PICTURES and not path.is_dir()
    if is_picture and not path.exists():
        raise usage_error(f"no such picture: {path}", "check the path")
    again: list[str] = []
    if is_picture:
        from sana_cli.image_io import SHEET_KEY, read_settings

        facts = read_settings(path)
        if not json:
            if SHEET_KEY not in facts:
                again = _command(facts)
            facts = _told(facts)
    else:
        facts = _model_facts(subject)
    if json:
        print_json(facts)
    else:
        say(*_lines(facts))
        if again:
            say_command("again", again)
    if show:
        show_picture(path if is_picture else None)


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """What is not empty; names that no version of ours has written stand apart, so that none passes for a line of ours."""
    said = {key: value for key, value in settings.items() if value != ""}
    ours = {key: value for key, value in said.items() if key.isidentifier() and key != "again"}
    others = {key: value for key, value in said.items() if key not in ours}
    return {**ours, **({"other settings": others} if others else {})}


def _command(settings: dict[str, Any]) -> list[str]:
    """The words of the command that draws a picture once more."""
    options = {
        "model": "--model", "negative_prompt": "--negative", "size": "--size", "steps": "--steps",
        "guidance": "--guidance", "guidance_interval": "--guidance-interval", "cache": "--cache",
        "scheduler": "--scheduler", "seed": "--seed",
        "image": "--image", "strength": "--strength", "mask": "--mask",
    }  # fmt: skip
    prompt = str(settings.get("prompt", ""))
    words = ["sana", "generate", *([] if prompt.startswith("-") else [prompt])]
    for key, option in options.items():
        if key in settings:
            words += [option, str(settings[key])]
    loras = settings.get("loras")
    for lora in loras if isinstance(loras, list) else ():
        words += ["--lora", str(lora)]
    if settings.get("drawn_size") != settings.get("size"):
        words.append("--bins")
    if settings.get("branches") == "apart":
        words += ["--plan", "branches"]
    if settings.get("decode"):  # "exact-tiles 512"
        mode, _, tile = str(settings["decode"]).partition(" ")
        words += ["--decode", mode, "--tile", tile]
    if settings.get("backend", "auto") != "auto":
        words += ["--backend", str(settings["backend"])]
    words.append("--enhance" if settings.get("enhance") else "--no-enhance")
    if prompt.startswith("-"):  # only after "--" it is no option
        words += ["--", prompt]
    return words


def _model_facts(model: str) -> dict[str, Any]:
    from sana_cli.checkpoint import local_path, looks_like_repo, open_checkpoint, open_snapshot
    from sana_cli.variants import find_variant

    variant = None if local_path(model).exists() else find_variant(model)
    if variant or (looks_like_repo(model) and not local_path(model).exists()):
        from sana_cli import hub_cache

        repo_id, weight_variant = (
            (variant.repo, variant.weight_variant) if variant else (model, None)
        )
        cached = hub_cache.find(repo_id, weight_variant=weight_variant)
        if cached is None or cached.snapshot is None or not cached.complete:
            if variant is None:
                raise SanaError(
                    f"{model} is not in the local cache",
                    hint=f"`sana pull {model}` downloads it; is it the path of a file? there is none",
                    code=ExitCode.ENVIRONMENT,
                )
            part = {"on disk": readable_bytes(cached.size_bytes)} if cached else {}
            facts = {"model": variant.alias, "downloaded": False, **part}
            return {**facts, **_published_facts(variant)}
        checkpoint = open_snapshot(model, cached.snapshot, variant)
    else:
        checkpoint = open_checkpoint(model, offline=True)
    return {
        "model": checkpoint.name,
        **({"downloaded": True} if variant else {}),
        **_local_facts(checkpoint),
        **(_published_facts(variant) if variant else {}),
    }


def _published_facts(variant: "Variant") -> dict[str, Any]:
    total = sum(variant.download_bytes.values())
    return {
        "repository": variant.repo,
        "download": readable_bytes(total),
        "native size": f"{variant.native_size}x{variant.native_size}",
        "steps": variant.steps,
        "guidance": variant.guidance,
        "scheduler": variant.scheduler,
        "precision": variant.precision,
        "licence": variant.license,
        "licence text": variant.license_url,
    }


def _local_facts(checkpoint: "Checkpoint") -> dict[str, Any]:
    from sana_cli.checkpoint import weight_files
    from sana_cli.weight_files import STEMS

    parts: dict[str, str] = {}
    for component in STEMS:
        if component == "transformer" and checkpoint.pth is not None:
            parts[component] = str(checkpoint.pth)
            continue
        if checkpoint.manifest is not None:
            part = checkpoint.manifest.components[component]
            schemes = sorted({str(config) for config in part.layers.values() if config})
            size = readable_bytes((checkpoint.folder / part.file).stat().st_size)
            parts[component] = f"{' and '.join(schemes) or 'not quantized'}, {size}"
            continue
        files = weight_files(checkpoint, component)
        size = readable_bytes(files.total_bytes)
        parts[component] = f"{files.parameters / 1e6:,.1f} M parameters, {files.dtype}, {size}"
    defaults = checkpoint.defaults
    config = checkpoint.transformer
    facts: dict[str, Any] = {
        "description": checkpoint.own.description,
        "folder": str(checkpoint.folder),
        "revision": checkpoint.revision or "",
        **parts,
        "blocks": f"{config.num_layers} of width {config.inner_dim}",
        "native size": f"{defaults.native_size}x{defaults.native_size}",
        "steps": defaults.steps,
        "guidance": defaults.guidance_scale,
        "scheduler": defaults.scheduler,
        "flow shift": defaults.flow_shift,
    }
    if checkpoint.own.vocabulary:
        facts["vocabulary"] = dict(checkpoint.own.vocabulary)
    return {key: value for key, value in facts.items() if value != ""}


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{key}: {shortened(', '.join(map(str, value)))}")
        else:
            lines.append(f"{indent}{shortened(str(key))}: {shortened(str(value))}")
    return lines
