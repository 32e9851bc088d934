"""Draw the same prompts and seeds with two models, and say how close their pictures are."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from sana_cli import __version__
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.images.comparison_sheet import Closeness, Pixels, Row, caption, most_rows, sheet
from sana_cli.images.picture_file import SHEET_KEY, load_picture
from sana_cli.images.png import save_png
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.pipeline.saving import draw_to_file
from sana_cli.progress import Reporter
from sana_cli.request.params import resolve
from sana_cli.request.runtime import runtime_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A model to compare and its requests: one per prompt, with seed and size."""

    name: str  # on the sheet
    checkpoint: Checkpoint
    requests: Sequence[GenerationOptions]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The closeness of the two pictures of one prompt and seed."""

    prompt: str
    seed: int
    closeness: Closeness


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Facts of a model's run."""

    precision: str
    kernels: dict[str, str]  # of quantized layers, by kind
    seconds: float  # a picture, median


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of a comparison, without the saved sheet."""

    contenders: tuple[Contender, Contender]
    drawn: tuple[Drawn, Drawn]
    pictures: Sequence[Compared]
    device: str
    sheet: Path

    @property
    def worst_db(self) -> float:
        return min(found.closeness.psnr_db for found in self.pictures)

    @property
    def median_db(self) -> float:
        return round(median(found.closeness.psnr_db for found in self.pictures), 2)


def compare(
    first: Contender,
    second: Contender,
    *,
    device: torch.device,
    target: Path,
    overwrite: bool,
    reporter: Reporter,
) -> Comparison:
    """Draw with one model after the other, and save the labelled sheet to `target`.

    SanaError where a model cannot draw, or the sheet cannot be saved.
    """
    with tempfile.TemporaryDirectory(prefix="sana-compare-") as scratch:
        files, drawn = [], []
        for number, contender in enumerate((first, second)):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            paths = [folder / f"{i}.png" for i in range(len(contender.requests))]
            drawn.append(_draw(contender, paths, device, reporter))
            files.append(paths)
        pairs = list(zip(*files, strict=True))
        found = [
            Compared(
                prompt=r.prompt or "", seed=r.seed or 0, closeness=Closeness.of(*map(_pixels, pair))
            )
            for r, pair in zip(first.requests, pairs, strict=True)
        ]
        save_sheet(target, (first.name, second.name), found, pairs, overwrite, reporter)
    return Comparison(
        contenders=(first, second), drawn=(drawn[0], drawn[1]), pictures=found,
        device=device.type, sheet=target,
    )  # fmt: skip


def _draw(
    contender: Contender, paths: Sequence[Path], device: torch.device, reporter: Reporter
) -> Drawn:
    wanted = [resolve(options, contender.checkpoint) for options in contender.requests]
    first = contender.requests[0]
    with SanaPipeline(
        contender.checkpoint, runtime_of(first, contender.checkpoint), device=device, reporter=reporter,
        cap_source=first.sources.get("max_memory", ""),
    ) as pipeline:  # fmt: skip
        pipeline.encode_ahead(wanted)
        seconds = [
            draw_to_file(pipeline, params, path, overwrite=False).seconds["total"]
            for params, path in zip(wanted, paths, strict=True)
        ]
        components = pipeline.components
        return Drawn(
            precision=str(components.dtypes),
            kernels=components.kernels,
            seconds=round(median(seconds), 3),
        )


def save_sheet(
    target: Path,
    names: tuple[str, str],
    found: Sequence[Compared],
    pairs: Sequence[tuple[Path, Path]],
    overwrite: bool,
    reporter: Reporter,
) -> None:
    """Save the sheet with all rows, or with those that differ most where there is no room."""
    by_closeness = sorted(range(len(found)), key=lambda i: found[i].closeness.psnr_db)
    shown = sorted(by_closeness[: most_rows()])
    if len(shown) < len(found):
        reporter.notice(
            f"{target.name} shows the {len(shown)} of {len(found)} prompts that differ most"
        )
    side = max(max(_pixels(pairs[i][0]).shape) for i in shown)
    image = sheet(_rows(found, pairs, shown), names, count=len(shown), side=side)
    settings: dict[str, Any] = {
        "compared": list(names),
        "version": __version__,
        SHEET_KEY: {
            f"row {row + 1}": f"{found[i].prompt} --seed {found[i].seed}, {found[i].closeness}"
            for row, i in enumerate(shown)
        },
    }
    save_png(image, target, settings=settings, overwrite=overwrite)


def _rows(
    found: Sequence[Compared], pairs: Sequence[tuple[Path, Path]], shown: Sequence[int]
) -> Iterator[Row]:
    for i in shown:
        one = found[i]
        yield Row(
            before=_pixels(pairs[i][0]),
            after=_pixels(pairs[i][1]),
            caption=caption(one.prompt, one.seed, one.closeness),
        )


def _pixels(path: Path) -> Pixels:
    return np.asarray(load_picture(path).convert("RGB"))
