"""Plot a document of the GPU suite next to its page: `python -m benchmarks.gpu_plots RESULT.json`. Needs matplotlib (extra `plots`)."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

Bars = dict[str, float]


def panels(document: dict[str, Any]) -> dict[str, Bars]:
    """Bars by title: milliseconds of steps, decoders and products, shares of peaks, memory over its forecast. Empty ones are left."""
    found = {name: item["found"] for name, item in document["items"].items()}
    steps = {
        f"{found[name]['variant']} {row['scheme']} {row['size']} {way}": row[f"{way}_ms"]
        for name in found
        for row in found[name].get("steps", [])
        if isinstance(row, dict) and "graph_ms" in row
        for way in ("plain", "engine", "graph")
    }
    theirs = found.get("diffusers", {})
    steps |= {f"diffusers {k}": v for k, v in theirs.items() if k.startswith("step")}
    decodes = {k: v for k, v in found.get("decode", {}).items() if k.endswith("_ms")}
    decodes |= {f"diffusers {k}": v for k, v in theirs.items() if k.startswith("decode")}
    products = found.get("products", {}).get("products", [])
    blocks = found.get("blocks", {}).get("kernels", [])
    shares = {
        f"int8 {row['shape']}": row["share_of_peak"] for row in products if "share_of_peak" in row
    }
    shares |= {f"{row['kernel']} {row['shape']}": row["share"] for row in blocks}
    forecast = {
        f"{row['side']} {row['plan']}": row["peak_over_predicted"]
        for row in found.get("memory", {}).get("decodes", [])
    }
    ways = {
        f"{row['shape']} {way}": row[f"{way}_ms"]
        for row in products
        for way in ("ours", "int_mm", "bf16", "fp8")
    }
    drawn = {
        "a step, ms": steps, "decoding, ms": decodes, "products, ms": ways,
        "share of what a product or a copy reached": shares, "memory, measured over predicted": forecast,
    }  # fmt: skip
    numbers = {
        title: {k: v for k, v in bars.items() if isinstance(v, int | float) and math.isfinite(v)}
        for title, bars in drawn.items()
    }
    return {title: bars for title, bars in numbers.items() if bars}


def main(result: Annotated[Path, typer.Argument(help="A document of the GPU suite.")]) -> None:
    """Draw bars into PNG files, and show them on the document's page."""
    found = panels(json.loads(result.read_text(encoding="utf-8")))
    if importlib.util.find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed")
        return
    from matplotlib.figure import Figure

    page, shown = result.with_suffix(".md"), []
    for i, (title, bars) in enumerate(found.items()):
        figure = Figure(figsize=(8, 1 + 0.25 * len(bars)), dpi=100, layout="tight")
        axes = figure.subplots()
        axes.barh(list(bars), list(bars.values()), color="#3a6ea5")
        axes.invert_yaxis()
        axes.set_xlabel(title)
        path = result.with_name(f"{result.stem}-{i}.png")
        figure.savefig(path, metadata={"Software": None})
        shown.append(f"![{title}]({path.name})")
    text = page.read_text(encoding="utf-8").partition("\n## Plots\n")[0].rstrip()
    page.write_text("\n\n".join([text, "## Plots", *shown]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
