"""Report new pictures: lines for people, one document for scripts."""

from typing import TYPE_CHECKING, Any, Protocol

from sana_cli.text import message_line, print_json, readable_memory, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sana_cli.pipeline.results import SavedResult
    from sana_cli.remote.picture import RemotePicture


def tell_error(message: str, hint: str) -> None:
    """Print an error and what to do next, one line each, on stderr."""
    for kind, text in (("error", message), ("hint", hint)):
        if text:
            say(f"{kind}: {message_line(text)}", err=True)


def summary(picture: "SavedResult | RemotePicture", *, quiet: bool) -> list[str]:
    """Return a few lines about one picture; only its path when `quiet`."""
    if quiet:
        return [str(picture.path)]
    stages = ", ".join(f"{name} {value:.1f}" for name, value in picture.seconds.items())
    peak = readable_memory(picture.peak_memory_bytes)
    predicted = readable_memory(picture.predicted_peak_bytes)
    saved = picture.passes is not None and picture.passes.saved
    return [
        f"{picture.path}  seed {picture.seed}  {picture.width}x{picture.height}",
        *([f"  prompt: {picture.settings['prompt']}"] if "template" in picture.settings else []),
        f"  seconds: {stages}",
        f"  peak memory: {peak}, {predicted} predicted",
        *([f"  transformer: {picture.passes}"] if saved else []),
        *([f"  decoded in {picture.decode}"] if picture.decode != "whole" else []),
    ]


def picture_facts(picture: "SavedResult | RemotePicture") -> dict[str, Any]:
    """Describe a new picture for programs: sizes in pixels and bytes, times in seconds."""
    return {"path": str(picture.path), **picture.facts()}


class Model(Protocol):
    """A `Checkpoint`, or a model of a server."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str | None: ...


class Parts(Protocol):
    """`Components`, or what a server says of them: `device` and `dtypes` are read as texts."""

    @property
    def device(self) -> object: ...

    @property
    def dtypes(self) -> object: ...

    @property
    def kernels(self) -> dict[str, str]: ...


def print_document(
    model: Model,
    pictures: "Sequence[SavedResult | RemotePicture]",
    *,
    device: object | None,
    precision: str | None,
    kernels: dict[str, str],
    sheet: "Path | None" = None,
) -> None:
    """Print the JSON document of a command. `sheet` is a contact sheet of all pictures."""
    document: dict[str, object] = {
        "model": model.name,
        "revision": model.revision,
        "device": str(device) if device else None,
        "precision": precision,
        "kernels": kernels,
        "images": [picture_facts(picture) for picture in pictures],
    }
    if sheet is not None:
        document["grid"] = str(sheet)
    print_json(document)
