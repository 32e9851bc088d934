"""The whole recipe in miniature: every stage runs, the export loads as an ordinary checkpoint and draws."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("npm") is None, reason="the drawings come through npm")
def test_two_minutes_of_training_make_a_checkpoint_that_draws(tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "export"
    command = [
        sys.executable,
        "-m",
        "training",
        "all",
        "--run-folder",
        str(run),
        "--minutes",
        "2",
        "--scale",
        "0.05",
        "--target",
        str(target),
    ]
    subprocess.run(
        command,
        cwd=REPOSITORY,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=1100,
    )
    assert sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) <= 20_000_000
    scores = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert scores["prompts"] >= 15
    assert scores["scores"]["all"]["right"]["trials"] == scores["prompts"]
    card = (target / "README.md").read_text()
    assert "Apache-2.0" in card
    assert "python -m training all" in card
    assert (run / "evaluation" / "sheet-shape.png").exists()
