"""The plot of docs/performance.md that `sana bench --plot` does not draw: what fewer operations cost.

`python -m benchmarks.plots` draws it into docs/images/. Needs the extra `plots`.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.record import RESULTS

IMAGES = Path(__file__).parents[1] / "docs/images"
# Ways to draw in `fewer-passes.json`: how their options begin, and a colour. The first that fits counts.
_WAYS = {
    "--guidance-interval and --cache": ("#a05195", lambda o: "interval" in o and "cache" in o),
    "--guidance-interval": ("#3a6ea5", lambda o: "interval" in o),
    "--cache": ("#e0a526", lambda o: "cache" in o),
    "--scheduler flow-euler --steps": ("#5a9e6f", lambda o: "euler" in o),
    "--steps": ("#9aa5b1", lambda o: "steps" in o),
}


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


def main(
    results: Annotated[Path, typer.Option(help="Where fewer-passes.json is.")] = RESULTS,
    images: Annotated[Path, typer.Option(help="Where the plot goes.")] = IMAGES,
) -> None:
    """Draw it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="tight")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    fewer_passes(json.loads((results / "fewer-passes.json").read_text()), axes)
    figure.savefig(images / "fewer-passes.png", metadata={"Software": None})
    print(images / "fewer-passes.png")


if __name__ == "__main__":
    typer.run(main)
