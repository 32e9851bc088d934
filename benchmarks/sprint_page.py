"""Write the tables and plots of few-step pictures by decoder into docs/performance.md, from `benchmarks/results/`.

`python -m benchmarks.sprint_page` reads `sprint-512*.json` of `benchmarks.sprint` and `benchmarks.sprint_cap`, as many
of them as there are; with `--check` it only says whether the page has these figures, and ends with 1 if not. Plots of
documents with all contenders go to docs/images/ under the names of the documents.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

PAGE = Path(__file__).parents[1] / "docs/performance.md"
BEGIN = "<!-- few-step pictures: python -m benchmarks.sprint_page writes this part from benchmarks/results/ -->\n"
END = "<!-- /few-step pictures -->"
PLOTTED = {"sprint-512": "with all instructions of the processor", "sprint-512-avx2": "AVX2 alone"}  # fmt: skip
DOCUMENTS = PLOTTED | {f"{name}-turns": instructions for name, instructions in PLOTTED.items()}
BARS = {  # times as fast as diffusers in fp32, text cached and with a new prompt
    "sana-w8a8-tiny": (12.0, 5.0), "sana-w8a8-lite": (5.0, 3.0), "sana-w8a8": (2.6, None),
}  # fmt: skip
CAPPED = "sprint-512-cap"
_COLUMNS = ("cached", "new")


def table(document: dict[str, Any]) -> list[str]:
    """Markdown rows: seconds, peak, and times as fast as the base, by contender."""
    base = document["base"]
    found = [
        f"| | text cached | times as fast as {base} | new prompt | times as fast | loading | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in document["whole_pictures"].items():
        cells = [name]
        for kind in _COLUMNS:
            cells += [f"{values[f'{kind}_s']:.2f} s", f"{values[f'{kind}_times_as_fast']:.2f}"]
        load = document["contenders"][name]["stages"].get("load")
        cells.append(f"{load['median']:.1f} s" if load else "")
        cells.append(f"{values['peak_gib']:.2f} GiB")
        found.append(f"| {' | '.join(cells)} |")
    return found


def capped_table(document: dict[str, Any]) -> list[str]:
    """Markdown rows: seconds of whole processes and their peaks, by cap and prompt."""
    found = [
        "| memory cap, prompt | whole picture | loading in it | peak memory |",
        "|---|---|---|---|",
    ]
    for name, values in document["medians"].items():
        seconds = f"{values['total']:.1f} s | {values['load']:.1f} s"
        found.append(f"| {name} | {seconds} | {values['peak_gib']:.2f} GiB |")
    return found


def part(results: Path) -> str:
    """The Markdown between the marks; a line that names the command where nothing was measured."""
    found: list[str] = []
    for name, instructions in DOCUMENTS.items():
        file = results / f"{name}.json"
        if not file.exists():
            continue
        document = json.loads(file.read_text(encoding="utf-8"))
        machine, runs = document["machine"], document["settings"]["runs"]
        in_turns = all(document["interleaved"].values())
        rounds = "rounds in turns" if in_turns else "runs, one contender after the other"
        found += [
            f"{machine['cpu']}, {machine['threads']} threads, {instructions}; medians of {runs} {rounds} "
            f"(`{document['command']}`, [{name}.json](../benchmarks/results/{name}.json)):",
            "",
            *table(document),
            "",
        ]
        if name in PLOTTED:
            found += [f"![Seconds a stage, by decoder, {instructions}](images/{name}.png)", ""]
    capped = results / f"{CAPPED}.json"
    if capped.exists():
        document = json.loads(capped.read_text(encoding="utf-8"))
        found += [
            f"Whole processes under a memory cap, w8a8 with the tiny decoder; medians of {document['rounds']} in turns "
            f"(`{document['command']}`, [{CAPPED}.json](../benchmarks/results/{CAPPED}.json)):",
            "",
            *capped_table(document),
            "",
        ]
    if not found:
        found = ["`python -m benchmarks.sprint --work FOLDER` measures it; no run is kept yet.", ""]
    return "\n".join(found)


def replaced(text: str, results: Path) -> str:
    """Return the page's text with these figures between the marks; ValueError without marks."""
    start = text.index(BEGIN) + len(BEGIN)
    return text[:start] + part(results) + text[text.index(END, start) :]


def draw(results: Path, images: Path) -> list[Path]:
    """Write a plot for each document with all contenders that is there."""
    from sana_cli.bench.plot import plot

    drawn = []
    for name in PLOTTED:
        file = results / f"{name}.json"
        if file.exists():
            drawn.append(images / f"{name}.png")
            plot(json.loads(file.read_text(encoding="utf-8"))).save(drawn[-1])
    return drawn


def missed(document: dict[str, Any]) -> list[str]:
    """Name what is slower than it should be, against the base."""
    found = []
    for name, bars in BARS.items():
        values = document["whole_pictures"].get(name, {})
        for kind, bar in zip(_COLUMNS, bars, strict=True):
            times = values.get(f"{kind}_times_as_fast")
            if bar is not None and times is not None and times < bar:
                found.append(f"{name}, {kind}: {times} times as fast, should be {bar:g}")
    return found


def main() -> None:
    """Write the page's figures and plots, or compare the figures with `--check`."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = replaced(text, RESULTS)
    if "--check" in sys.argv[1:]:
        if text != wanted:
            sys.exit(f"{PAGE.name} has other figures than benchmarks/results/: python -m benchmarks.sprint_page")  # fmt: skip
        return
    PAGE.write_text(wanted, encoding="utf-8")
    for path in draw(RESULTS, PAGE.parent / "images"):
        print(path)
    for file in (RESULTS / f"{name}.json" for name in DOCUMENTS):
        if file.exists():
            print(*missed(json.loads(file.read_text(encoding="utf-8"))), sep="\n")


if __name__ == "__main__":
    main()
