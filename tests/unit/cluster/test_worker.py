"""A worker, without Ray: the pictures of `--prompts`, each once, and errors that stay with their picture."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from sana_cli.cluster.locations import unreachable
from sana_cli.cluster.output import UrlOutput
from sana_cli.cluster.tasks import Outcome, Task
from sana_cli.cluster.worker import Draw
from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline.batch import Job
from tests.unit.cluster.conftest import Planned


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in sorted(outcomes, key=lambda each: each.index)]


def reported(rows: Iterable[dict[str, list[str]]]) -> list[Outcome]:
    """The outcomes in rows of a worker."""
    return [Outcome.from_json(line) for row in rows for line in row["outcomes"][0].splitlines()]


def test_a_worker_draws_what_the_command_draws(
    planned: Callable[..., Planned], sana: Callable[..., object], tmp_path: Path, tiny_model: Path
) -> None:
    plan = planned("a fox", "two frogs")
    block = {"task": [task.to_json() for task in plan.tasks]}
    outcomes = reported(plan.worker()(block))
    assert statuses(outcomes) == ["drawn", "drawn"]
    paths = [job.path for job in plan.batch.jobs]
    sana(
        "generate", "--prompts", tmp_path / "p.txt", "-m", tiny_model, "-o", f"{tmp_path}/plain/",
        "--size", "32", "--steps", "1", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert [(tmp_path / "plain" / p.name).read_bytes() for p in paths] == [p.read_bytes() for p in paths]  # fmt: skip
    first = min(outcomes, key=lambda each: each.index)
    assert first.sha256 == sha256(paths[0].read_bytes()).hexdigest()
    assert first.settings == read_settings(paths[0])
    assert first.seconds["total"] > 0
    assert first.facts["peak_memory_bytes"] > 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in paths}


def test_a_block_that_comes_back_is_not_drawn_again(planned: Callable[..., Planned]) -> None:
    plan = planned("a fox", "two frogs")
    worker = plan.worker()
    list(worker.outcomes(plan.tasks[:1]))
    path = plan.batch.jobs[0].path
    before = path.stat().st_mtime_ns
    outcomes = list(worker.outcomes(plan.tasks))
    assert statuses(outcomes) == ["done", "drawn"]
    assert path.stat().st_mtime_ns == before
    assert min(outcomes, key=lambda each: each.index).sha256 == sha256(path.read_bytes()).hexdigest()  # fmt: skip


def test_a_picture_that_cannot_be_drawn_ends_nothing_else(
    planned: Callable[..., Planned], tmp_path: Path
) -> None:
    plan = planned("a fox", "two frogs", "a tree")
    changed = replace(plan.tasks[1], planned="of another file")
    plan.batch.jobs[2].path.write_bytes(b"another file is in the way")
    outcomes = list(plan.worker().outcomes([plan.tasks[0], changed, plan.tasks[2]]))
    assert statuses(outcomes) == ["drawn", "error", "error"]
    errors = {each.index: str(each.failure) for each in outcomes if each.failure}
    assert "differs on this machine" in errors[2]
    assert "exists" in errors[3]


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        (
            [0.2] * 7,
            [1, 5, 1],
        ),  # small pictures: the first at once, then those of a second, at the end the rest
        ([3.0] * 4, [1, 1, 1, 1]),  # large ones: each at once
        ([0.1, 0.1, 3.0, 0.1], [1, 2, 1]),
    ],
)
def test_small_pictures_are_reported_together(
    planned: Callable[..., Planned], seconds: list[float], sizes: list[int]
) -> None:
    """A row takes Ray as much time as a small picture takes."""
    now = 0.0

    class Timed(Draw):
        def outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
            nonlocal now
            for task, each in zip(tasks, seconds, strict=True):
                now += each
                yield Outcome(index=task.index, status="drawn", node="n")

    plan = planned(*(f"picture {index}" for index in range(len(seconds))))
    rows = list(Timed(plan.setup, clock=lambda: now)({"task": [t.to_json() for t in plan.tasks]}))
    assert [len(row["outcomes"][0].splitlines()) for row in rows] == sizes
    assert [each.index for each in reported(rows)] == [task.index for task in plan.tasks]


def test_memory_that_runs_out_is_waited_for(
    planned: Callable[..., Planned], at_stage: Callable[..., AbstractContextManager[object]]
) -> None:
    plan = planned("a fox")
    waited: list[float] = []
    worker = plan.worker()
    worker._sleep = waited.append

    def fail() -> None:
        raise MemoryError

    with at_stage("denoise", fail):
        outcomes = list(worker.outcomes(plan.tasks))
    assert statuses(outcomes) == ["error"]
    assert outcomes[0].failure is not None
    assert outcomes[0].failure.code == ExitCode.ENVIRONMENT
    assert len(waited) == 2
    assert waited == sorted(waited)


def test_another_model_of_that_name_is_refused(planned: Callable[..., Planned]) -> None:
    plan = planned("a fox")
    with pytest.raises(SanaError, match="other files"):
        plan.worker(model_digest="0" * 16)


@pytest.mark.parametrize("overwrite", [False, True])
def test_pictures_behind_a_url(
    planned: Callable[..., Planned], tmp_path: Path, overwrite: bool
) -> None:
    plan = planned("a fox", url=f"file://{tmp_path}/remote")
    worker = plan.worker(overwrite=overwrite)
    assert statuses(list(worker.outcomes(plan.tasks))) == ["drawn"]
    path = tmp_path / "remote/1-a-fox.png"
    data = path.read_bytes()
    assert read_settings(path)["prompt"] == "a fox"
    assert statuses(list(worker.outcomes(plan.tasks))) == ["drawn" if overwrite else "done"]
    assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("failures", "status"), [(2, "drawn"), (3, "error")])
def test_a_picture_is_sent_again_and_not_drawn_again(
    planned: Callable[..., Planned], tmp_path: Path, failures: int, status: str
) -> None:
    class Counting(Draw):
        drawn = 0

        def _drawn(self, job: Job) -> Outcome:
            self.drawn += 1
            return super()._drawn(job)

    class Unsteady(UrlOutput):
        left = failures

        def write(self, data: bytes, name: str, *, overwrite: bool) -> None:
            if self.left > 0:
                self.left -= 1
                raise unreachable(self.url, ConnectionResetError("reset by peer"))
            super().write(data, name, overwrite=overwrite)

    url = f"file://{tmp_path}/remote"
    plan = planned("a fox", "two frogs", url=url)
    worker = Counting(plan.setup, node="here", sleep=lambda seconds: None)
    worker.output = Unsteady(url)
    outcomes = list(worker.outcomes(plan.tasks))
    assert statuses(outcomes) == [status, "drawn"], "the next picture is sent"
    assert worker.drawn == 2
    errors = [str(each.failure) for each in outcomes if each.failure]
    assert errors == ([f"cannot reach {url}: reset by peer (on here)"] if status == "error" else [])
    there = {p.name for p in (tmp_path / "remote").iterdir()}
    assert there == {task.name for task in plan.tasks[status == "error" :]}
    assert list(worker.output.local("x").parent.iterdir()) == [], "nothing stays on the worker"


def test_the_next_block_loads_nothing(
    planned: Callable[..., Planned], at_stage: Callable[..., AbstractContextManager[object]]
) -> None:
    """Its texts are new, and the text encoder has stayed beside the other parts."""
    plan = planned("nine lighthouses", "a heron on a roof")
    worker = plan.worker()
    assert statuses(list(worker.outcomes(plan.tasks[:1]))) == ["drawn"]
    loads: list[str] = []
    with ExitStack() as stack:
        for part in ("text", "denoise", "decode"):
            stack.enter_context(at_stage(f"load {part}", partial(loads.append, part)))
        assert statuses(list(worker.outcomes(plan.tasks[1:]))) == ["drawn"]
    assert loads == []
