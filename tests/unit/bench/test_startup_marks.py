"""The benchmark of the start: what it writes down of a command."""

import json
import subprocess
import sys
from pathlib import Path

DRIVER = Path(__file__).parents[3] / "benchmarks" / "startup_marks.py"


def test_marks_of_a_command_are_written_before_its_process_ends(tmp_path: Path) -> None:
    file = tmp_path / "marks.json"
    subprocess.run([sys.executable, str(DRIVER), str(file), "--version"], check=True)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert set(found) == {"python runs", "process ends"}
