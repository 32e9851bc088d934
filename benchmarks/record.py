"""Keep documents of measurements."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def record(name: str, document: dict[str, Any], *, folder: Path = RESULTS) -> Path:
    """Write a document to `name`.json, in place of an earlier one, all or nothing; returns where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path, new = folder / f"{name}.json", folder / f".{name}.json.new"
    new.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return new.replace(path)
