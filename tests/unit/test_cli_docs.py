"""`docs/cli.md` says what `sana --help` says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "typer", "sana_cli.cli", "utils", "docs", "--name", "sana"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "## `sana generate`" in done.stdout
    written = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    listed = [line for line in written.splitlines() if line.startswith("* `") and ": " in line]
    assert not [line for line in listed if line.endswith("...")], "a description is cut"
    assert written.strip() == done.stdout.strip(), "options have changed: run `make docs`"
