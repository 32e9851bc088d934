"""docs/memory.md has the figures of the measurements that it names."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/memory.md").read_text(encoding="utf-8")
MODELS = {
    "built-in": "builtin",
    "Sana-0.6B, w8a8 folder": "full-w8a8",
    "Sana-0.6B, floats": "full",
}


def measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks/results/memory.json").read_text())
    return found


def gib(mib: int | None) -> str:
    return "-" if mib is None else f"{mib / 1024:.2f} GiB"


def test_rows_are_those_of_the_result() -> None:
    rows = {(row["model"], row["size"], row["options"]): row for row in measured()["rows"]}
    written = re.findall(
        r"^\| ([^|]+) \| (\d+)x\d+ ?([^|]*) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE
    )
    assert len(written) >= 10
    for model, size, options, peak, predicted in written:
        row = rows[MODELS[model], int(size), options.strip("`").replace("`", "")]
        assert (peak, predicted) == (gib(row["measured_mib"]), gib(row.get("predicted_mib"))), row


def test_the_range_is_that_of_the_result() -> None:
    document = measured()
    combinations = sum("predicted_mib" in row for row in document["rows"])
    ratios = document["predicted_to_measured"]
    text = " ".join(PAGE.split())
    assert f"Over {combinations} combinations" in text
    assert f"the prediction is {ratios['least']:.2f} to {ratios['most']:.2f} times" in text
