"""What `docs/scale.md` shows for Dask and Slurm is run as it stands, with a small model and folders of the test."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def block_of(title: str, kind: str = "") -> str:
    """The first block of code below a heading."""
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8").partition(f"### {title}\n")[2]
    found = re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_function_for_dask_draws(tiny_model: Path, tmp_path: Path) -> None:
    """Its workers draw several blocks each, with one model."""
    distributed = pytest.importorskip("distributed")
    found: dict[str, Any] = {}
    exec(block_of("Dask", "python"), found)
    blocks = [[("a fox", 1), ("an owl", 2)], [("a ship", 3)]]
    local = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**local) as cluster, distributed.Client(cluster) as client:
        calls = client.map(found["draw"], blocks, model=str(tiny_model), folder=str(tmp_path))
        assert client.gather(calls) == [2, 1]
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["1.png", "2.png", "3.png"]


@pytest.mark.slow  # several processes load torch
@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_jobs_of_the_slurm_array_share_a_folder(tiny_model: Path, tmp_path: Path) -> None:
    """Two jobs at once, and one that comes later: each picture is drawn once."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/sana"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sana_cli "$@"\n')
    program.chmod(0o755)
    prompts = [{"prompt": f"picture {index}"} for index in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts))
    script = block_of("Slurm").replace("/shared", str(tmp_path))
    assert "--model sana-0.6b" in script
    script = script.replace(
        "--model sana-0.6b", f"--model {tiny_model} --size 32 --steps 1 --device cpu"
    )
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    common = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "SLURM_CPUS_PER_TASK": "1"}

    def begin(task: int) -> "subprocess.Popen[str]":
        variables = {**common, "SLURM_ARRAY_TASK_ID": str(task)}
        return subprocess.Popen(
            ["bash", "-c", script], env=variables, stdout=subprocess.PIPE, text=True
        )

    def statuses(job: "subprocess.Popen[str]") -> list[str]:
        out, _ = job.communicate()
        assert job.returncode == 0
        return [json.loads(line)["status"] for line in out.splitlines()]

    jobs = [begin(0), begin(1)]
    drawn = [status for job in jobs for status in statuses(job)]
    assert drawn.count("drawn") == len(prompts)
    assert statuses(begin(2)) == ["done"] * len(prompts)
    names = [p.name for p in (tmp_path / "pictures").iterdir()]
    assert [name for name in names if not name.endswith(".png")] == []
    assert len(names) == len(prompts)
