"""What commands that make pictures say about them: lines for people, one document for scripts."""

from typing import TYPE_CHECKING

import typer

from sana_cli.output import printable, readable_memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from sana_cli.checkpoint import Checkpoint
    from sana_cli.finishing import Picture


def tell_error(message: str, hint: str) -> None:
    """An error and what to do next, one line each, on stderr."""
    for kind, text in (("error", message), ("hint", hint)):
        if text:  # no control characters: names and prompts come from files and people
            typer.echo(f"{kind}: {' '.join(printable(text).split())}", err=True)


def summary(picture: "Picture", *, quiet: bool) -> str:
    """A few lines about one picture; only its path when `quiet`."""
    if quiet:
        return str(picture.path)
    stages = ", ".join(f"{name} {value:.2f}" for name, value in picture.seconds.items())
    peak = readable_memory(picture.peak_memory_bytes)
    predicted = readable_memory(picture.predicted_peak_bytes)
    decoded = "" if picture.decode == "whole" else f"\n  decoded in {picture.decode}"
    passes = f"\n  transformer: {picture.passes}" if picture.passes and picture.passes.saved else ""
    return (
        f"{picture.path}  seed {picture.seed}  {picture.width}x{picture.height}\n"
        f"  seconds: {stages}\n"
        f"  peak memory: {peak}, {predicted} predicted{passes}{decoded}"
    )


def print_document(
    checkpoint: "Checkpoint",
    pictures: "list[Picture]",
    *,
    device: "torch.device | None",
    precision: str | None,
    kernels: dict[str, str],
    done_before: "Sequence[Path] | None" = None,
    sheet: "Path | None" = None,
) -> None:
    """Print the JSON document of a command. `done_before` is for a batch: pictures that were there already.
    `sheet` is a contact sheet of all pictures."""
    from dataclasses import asdict
    from json import dumps

    images = [
        {
            "path": str(picture.path),
            "seed": picture.seed,
            "width": picture.width,
            "height": picture.height,
            "seconds": {name: round(value, 4) for name, value in picture.seconds.items()},
            "peak_memory_bytes": picture.peak_memory_bytes,
            "predicted_peak_bytes": picture.predicted_peak_bytes,
            "plan": picture.plan,
            "decode": picture.decode,
            **({"passes": asdict(picture.passes)} if picture.passes else {}),
            "settings": picture.settings,
        }
        for picture in pictures
    ]
    document: dict[str, object] = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "device": str(device) if device else None,
        "precision": precision,
        "kernels": kernels,
        "images": images,
    }
    if done_before is not None:
        document["done_before"] = [str(path) for path in done_before]
    if sheet is not None:
        document["grid"] = str(sheet)
    typer.echo(dumps(document, ensure_ascii=False))
