"""`sana info FOLDER` for a folder of pictures: one entry a picture, each as `sana info PICTURE` describes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sana_cli.errors import SanaError

# Model folders have one of these.
_MODEL_FILES = ("model_index.json", "manifest.json", "transformer")


def pictures_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """List a folder's pictures by name; empty for the folder of a model."""
    if not folder.is_dir() or any((folder / name).exists() for name in _MODEL_FILES):
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def documents_of(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Describe pictures, one after another; one that carries no settings or cannot be read has `problem`."""
    from sana_cli.commands.picture_facts import facts_of
    from sana_cli.images.picture_file import settings_without_pixels

    for path in paths:
        settings = settings_without_pixels(path)
        if settings is not None:  # most of them; decoding thousands would take minutes
            yield {"picture": str(path), "settings": settings}
            continue
        try:
            yield facts_of(path).document
        except SanaError as error:
            yield {"picture": str(path), "settings": {}, "problem": error.message}


def line_of(document: dict[str, Any]) -> str:
    """Describe a picture on one line: its name, size, seed, and the beginning of its prompt."""
    from sana_cli.text import one_line, shortened

    name, settings = Path(document["picture"]).name, document["settings"]
    if "problem" in document:
        return f"{name}  no settings"
    if "preview" in document:
        return f"{name}  preview, {document['preview']}"
    said = document.get("foreign", settings)
    facts = [
        str(said.get("size", "")),
        f"seed {said['seed']}" if said.get("seed") is not None else "",
        str(said.get("program") or said.get("model") or ""),
        str(said.get("prompt") or ("sheet" if "pictures" in settings else "")),
    ]
    return shortened(one_line("  ".join([name, *(fact for fact in facts if fact)])), 160)
