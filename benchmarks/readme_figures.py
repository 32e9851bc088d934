"""Write the README's table of speed and memory from `benchmarks/results/`.

`python -m benchmarks.readme_figures` writes it; with `--check` it only says whether the README has these figures, and
ends with 1 if not. Figures stand nowhere else in the README.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- figures: python -m benchmarks.readme_figures writes this part from benchmarks/results/ -->\n"
END = "<!-- /figures -->"
MIB_PER_GIB = 1024


def figures() -> str:
    """The Markdown between the marks: a line of what was drawn, and a table whose rows name their files."""
    rows = [
        *_speed("cpu-512.json", "with VNNI and bf16", base="diffusers-fp32", name="diffusers fp32"),
        *_speed(
            "openvino-512.json", "another run", base="openvino-int8", name="the best of OpenVINO"
        ),
        *_speed("cpu-512-avx2.json", "AVX2 alone", base="diffusers", name="diffusers fp32"),
        *_memory(),
        _few_steps(),
        _builtin(),
        _startup(),
    ]
    lines = [
        "Random weights of Sana-0.6B, full size, two cores of a CPU; pictures of 512 pixels and 20 steps where nothing else is said.",
        "VNNI, bf16 and AVX2 are instructions of processors; `sana doctor` lists those of yours.",
        "",
        "| what | sana | others | file |",
        "|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def replaced(text: str) -> str:
    """Return the README's text with these figures between the marks; ValueError without marks."""
    start = text.index(BEGIN) + len(BEGIN)
    return text[:start] + figures() + text[text.index(END, start) :]


def _row(what: str, ours: str, others: str, file: str) -> str:
    return f"| {what} | {ours} | {others} | [{file}](benchmarks/results/{file}) |"


def _read(file: str) -> Any:
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


def _speed(file: str, machine: str, *, base: str, name: str) -> list[str]:
    """A picture of the w8a8 folder, next to the base that the file's ratios were taken against."""
    document = _read(file)
    ours = document["contenders"]["sana-0.6b-w8a8"]
    times = document["times_as_fast"]["sana-0.6b-w8a8"]["picture"]["median"]
    if document["base"] != base:
        raise ValueError(f"{file}: ratios against {document['base']}, not {base}")
    peak = ours["peak_host_bytes"] / 2**30
    seconds = ours["stages"]["picture"]["median"]
    return [_row(f"a picture in w8a8, {machine}", f"{seconds:.0f} s, {peak:.2f} GiB", f"{name}: {times:.1f} times as long", file)]  # fmt: skip


def _memory() -> list[str]:
    document = _read("memory.json")

    def measured(model: str, size: int, options: str) -> str:
        (found,) = [
            row["measured_mib"] for row in document["rows"]
            if (row["model"], row["size"], row["options"]) == (model, size, options)
        ]  # fmt: skip
        return f"{found / MIB_PER_GIB:.3g} GiB" if found >= MIB_PER_GIB else f"{found} MiB"

    ratios = document["predicted_to_measured"]
    diffusers = f"diffusers fp32: {measured('full', 1024, 'diffusers fp32')}"
    return [
        _row("memory of 1024x1024 in w8a8", measured("full-w8a8", 1024, ""), diffusers, "memory.json"),
        _row("the same with `--max-memory 700MiB`", measured("full-w8a8", 1024, "--max-memory 700MiB"), "", "memory.json"),
        _row("memory of 4096x4096 in w8a8", measured("full-w8a8", 4096, "--max-memory 8GiB"), "", "memory.json"),
        _row("predicted memory, as a share of what was measured", f"{ratios['least']:.2f} to {ratios['most']:.2f}", "", "memory.json"),
    ]  # fmt: skip


def _few_steps() -> str:
    rows = _read("few-steps.json")["rows"]
    (two,) = [row for row in rows if row["steps"] == 2]
    return _row("prompts that `builtin-sprint` draws right in 2 steps", f"{two['hits']} of {two['trials']}", "", "few-steps.json")  # fmt: skip


def _builtin() -> str:
    """The whole command with the built-in model on a quiet machine."""
    file = max(p.name for p in RESULTS.glob("startup-*.json") if "pictures" in _read(p.name))
    seconds = _read(file)["pictures"]["now"]["processes"]["built-in picture"]["median_ms"] / 1000
    return _row("`sana generate` with the built-in model, from start to end", f"{seconds:.1f} s", "", file)  # fmt: skip


def _startup() -> str:
    # Not each measurement times commands, too.
    file = max(p.name for p in RESULTS.glob("startup-*.json") if _read(p.name)["commands"])
    return _row("`sana --help`", f"{_read(file)['commands']['sana --help']['median_ms']:.0f} ms", "", file)  # fmt: skip


def main() -> None:
    """Write the README's figures, or compare them with `--check`."""
    text = README.read_text(encoding="utf-8")
    wanted = replaced(text)
    if "--check" not in sys.argv[1:]:
        README.write_text(wanted, encoding="utf-8")
    elif text != wanted:
        sys.exit(
            "README.md has other figures than benchmarks/results/: python -m benchmarks.readme_figures"
        )


if __name__ == "__main__":
    main()
