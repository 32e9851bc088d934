"""Resolve a model's name: built in, kept here by name, a folder or file, a known name, OWNER/NAME. No torch."""

from pathlib import Path

from sana_cli.checkpoints.builtin_packed import PACKED_MODELS, unpacked_folder
from sana_cli.checkpoints.safetensors_headers import read_header
from sana_cli.config.generation import BUILTIN
from sana_cli.config.places import models_folder
from sana_cli.config.recipes import RECIPES
from sana_cli.config.variants import find_variant, suggest
from sana_cli.errors import SanaError, checkpoint_error, usage_error
from sana_cli.files import local_path, require_file
from sana_cli.text import closest

BUILTIN_MODELS = (BUILTIN, *PACKED_MODELS)  # of the package
BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin"


def require_name(model: str) -> None:
    """SanaError (usage) for a name without a letter, which as a path would be the current folder."""
    if not model.strip():
        raise usage_error("the model's name is empty", "`sana models` lists them")


def kept_folder(model: str) -> Path | None:
    """Find the model that `sana quantize` or `sana pull` keeps under this name; None for any other name.

    SanaError for a name that no folder can have.
    """
    if model != Path(model).name or model in ("", ".", ".."):
        return None
    packed = PACKED_MODELS.get(model)
    if packed is not None and (BUILTIN_FOLDER / packed.folder).is_dir():
        return unpacked_folder(BUILTIN_FOLDER, packed)
    local_path(model)
    folder = models_folder() / model
    return folder if folder.is_dir() else None


def looks_like_repo(model: str) -> bool:
    """Return whether `model` has the form `owner/name` and is not a mistyped path."""
    parts = model.split("/")
    return len(parts) == 2 and all(parts) and not model.startswith((".", "~"))


def lasting_name(model: str) -> str:
    """Return a name that opens this model from any folder and on any later day; else raise
    SanaError.

    Hub names are not looked up; a missing repository shows when it is used.
    """
    path = local_path(model)
    if model == BUILTIN:
        return model
    require_name(model)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise usage_error(
            f"{path} is not a model folder: it has no model_index.json",
            "give a known name, or the folder that holds transformer/, vae/ and the others",
        )
    if path.exists():
        refuse_part(path)
        return str(path.resolve())
    if kept_folder(model) is not None:
        return model
    if find_variant(model) is None and not looks_like_repo(model):
        raise unknown_model(model)
    return model.strip()


def place_of(name: str, default: str | None) -> str:
    """Return what opens a model by the name that pictures store, which is a folder's last name.

    `default` is the model of the user's settings: it is meant where the last names agree.
    """
    if default and kept_folder(name) is None and Path(default).name == name:
        return default
    return name


def refuse_part(path: Path) -> None:
    """Raise SanaError for a file that is one part of a model folder; a .pth file is a whole transformer."""
    around = [
        folder for folder in list(path.parents)[:2] if (folder / "model_index.json").is_file()
    ]
    if path.suffix == ".safetensors":
        require_file(path, "file", "check the path; `sana models` lists models")
        if any("lora" in name.lower() for name in read_header(path)):
            raise checkpoint_error(
                f"{path} is a LoRA, which changes a model",
                hint=f"draw with it and its model: sana generate PROMPT --lora {path}",
            )
    if path.suffix != ".safetensors" and not (
        around and path.is_file() and path.suffix not in (".pth", ".pt")
    ):
        return
    raise checkpoint_error(
        f"{path} is one part of a model",
        hint=f"name the folder: {around[0]}"
        if around
        else "give the folder that holds transformer/, vae/, text_encoder/ and tokenizer/",
    )


def unknown_model(model: str) -> SanaError:
    """Make the error for a name that means nothing here; its hint suggests the closest name, or how to make the model."""
    folder = models_folder()
    kept = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
    close = closest(model, [*BUILTIN_MODELS, *kept]) or suggest(model)
    hint = f"did you mean {close}? " if close else "check the spelling, or give the folder's path; "
    for recipe in RECIPES:
        base = model.removesuffix(f"-{recipe}")
        if base != model and find_variant(base) is not None:
            hint = f"`sana pull {base} --quantize {recipe}` makes it; "
    return usage_error(
        f"unknown model {model!r}: neither a folder, a .pth file, a known name nor OWNER/NAME",
        f"{hint}`sana models` lists the known names",
    )
