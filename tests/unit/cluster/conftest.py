"""What tests of a cluster share: a planned batch of a tiny model, and a worker for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.cluster.tasks import Task
from sana_cli.cluster.worker import Draw, Setup
from sana_cli.config.generation import GenerationOptions
from sana_cli.pipeline.batch import Batch, plan_batch
from sana_cli.request.prompt_file import read_prompt_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A batch of a driver, as tasks, and what its workers are told."""

    batch: Batch
    tasks: list[Task]
    setup: Setup

    def worker(self, **changes: Any) -> Draw:
        return Draw(replace(self.setup, **changes), node="here", sleep=lambda seconds: None)


@pytest.fixture
def planned(tiny_model: Path, tmp_path: Path) -> Callable[..., Planned]:
    """Plan the pictures of some lines in `tmp_path/out`; `names` of tasks are absolute paths, or those under a URL."""
    checkpoint = open_checkpoint(str(tiny_model))
    (tmp_path / "out").mkdir()

    def run(*lines: str, url: str = "", **common: Any) -> Planned:
        file = tmp_path / "p.txt"
        file.write_text("\n".join(lines))
        said = {"width": 32, "height": 32, "steps": 1, **common}
        options = GenerationOptions(output=f"{tmp_path}/out/", **said)
        batch = plan_batch(read_prompt_file(str(file)), options, checkpoint, overwrite=False)
        return Planned(
            batch=batch,
            tasks=[
                Task.of(job, options, job.path.name if url else str(job.path))
                for job in batch.pending
            ],
            setup=Setup(
                model=str(tiny_model), model_name=checkpoint.name, model_digest=batch.model_digest, output=url,
                folder=str(tmp_path), runtime={"device": "cpu", "precision": "fp32"}, offline=True,
            ),
        )  # fmt: skip

    return run
