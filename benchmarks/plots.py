"""The plots of docs/performance.md, from the results that it names.

`python -m benchmarks.plots` draws them into docs/images/. Needs the extra `plots`.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sana_cli.bench.page import COLOURS

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs/images"
# Ways to draw in `fewer-passes.json`: how their options begin, and a colour. The first that fits counts.
_WAYS = {
    "--guidance-interval and --cache": ("#a05195", lambda o: "interval" in o and "cache" in o),
    "--guidance-interval": ("#3a6ea5", lambda o: "interval" in o),
    "--cache": ("#e0a526", lambda o: "cache" in o),
    "--scheduler flow-euler --steps": ("#5a9e6f", lambda o: "euler" in o),
    "--steps": ("#9aa5b1", lambda o: "steps" in o),
}


def peers(document: dict[str, Any], axes: Any) -> None:
    """CPU seconds of a picture, a bar a contender."""
    names = list(document["rows"])[::-1]
    left = [0.0] * len(names)
    for stage in ("text", "denoise", "decode"):
        seconds = [document["rows"][name]["picture"][stage] for name in names]
        axes.barh(names, seconds, left=left, color=COLOURS[stage], label=stage, height=0.6)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    for i, total in enumerate(left):
        axes.text(total, i, f" {total:.0f}", va="center")
    axes.set_xlabel("CPU seconds a picture, one thread (peers-cpu.json)")
    axes.set_xlim(0, 1.08 * max(left))
    axes.legend(frameon=False)


def fewer_passes(document: dict[str, Any], axes: Any) -> None:
    """Distance from the full run's pictures over the share of blocks that were run."""
    left = list(document["rows"][1:])  # without the full run
    for way, (colour, fits) in _WAYS.items():
        rows = [row for row in left if fits(row["options"])]
        left = [row for row in left if not fits(row["options"])]
        x, y = [row["blocks_run"] for row in rows], [row["psnr_db"] for row in rows]
        sizes = [12 + 12 * max(0, -row["points"]) for row in rows]
        axes.scatter(x, y, s=sizes, color=colour)
        axes.scatter([], [], color=colour, label=way)  # the legend's dot
    axes.set_xlabel("share of the full run's blocks (fewer-passes.json)")
    axes.set_ylabel("PSNR against the full run, dB\nlarger dots: more wrong pictures")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


PLOTS = {"peers-cpu": (peers, (8, 2.4)), "fewer-passes": (fewer_passes, (8, 4.5))}


def main(
    results: Annotated[Path, typer.Option(help="Where the JSON files are.")] = RESULTS,
    images: Annotated[Path, typer.Option(help="Where the plots go.")] = IMAGES,
) -> None:
    """Draw all."""
    from matplotlib.figure import Figure

    for name, (draw, size) in PLOTS.items():
        document = json.loads((results / f"{name}.json").read_text())
        figure = Figure(figsize=size, dpi=100, layout="tight")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(document, axes)
        figure.savefig(images / f"{name}.png", metadata={"Software": None})
        print(images / f"{name}.png")


if __name__ == "__main__":
    typer.run(main)
