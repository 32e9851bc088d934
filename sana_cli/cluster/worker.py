"""`Draw`: one worker, with one model in memory. Knows nothing of Ray, so that any engine of processes may run it.

A block of tasks goes through the same batch code as `sana generate --prompts`: claims, finished pictures and texts
encoded together. A worker that runs out of memory waits and tries again, in place of failing the whole queue in seconds.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any

from quant.manifest import sha256_of
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.digest import model_digest
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.cluster.output import Output, open_output
from sana_cli.cluster.tasks import Outcome, Task, settings_digest
from sana_cli.errors import ExitCode, SanaError, explained
from sana_cli.pipeline.batch import Batch, Job, draw_batch
from sana_cli.pipeline.finished_pictures import fits
from sana_cli.progress import SilentReporter
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.request.picture_settings import picture_settings
from sana_cli.request.prompt_entries import Place
from sana_cli.request.prompt_file import Line
from sana_cli.request.runtime import RuntimeOptions

if TYPE_CHECKING:
    from sana_cli.pipeline.pipeline import SanaPipeline
    from sana_cli.pipeline.results import SavedResult

# A row takes Ray 6 ms of processor time, and its worker waits for 45 ms on two busy cores: a small picture takes no longer.
_REPORT_S = 1.0
_WAITS_S = (2.0, 10.0)  # before a picture is tried again that the machine had no room for


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that a worker needs to know at its start: plain values, of one kilobyte."""

    model: str  # as `--model` takes it
    model_name: str  # that pictures carry
    model_digest: str
    output: str  # a URL; "": tasks hold absolute paths
    folder: str  # in which relative names of files are meant
    runtime: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)  # where models are
    overwrite: bool = False
    offline: bool = False
    quality: int | None = None


class Draw:
    """Draws blocks of tasks: `Draw(setup)(block)` yields one outcome a picture. Opening checks the model; loading waits."""

    def __init__(
        self,
        setup: Setup,
        *,
        node: str = "",
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`node` is what reports call this machine. Raises SanaError for a model that is not here."""
        self.setup, self._sleep, self._clock = setup, sleep, clock
        self.node = node or platform.node()
        self.checkpoint = open_model(setup)
        self.output: Output = open_output(setup.output)
        self._pipeline: SanaPipeline | None = None
        self._tasks: dict[int, Task] = {}
        self._reported = -inf  # when, by the clock: the first picture is reported at once

    def __call__(self, block: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[str]]]:
        """Draw the tasks of a block as Ray Data hands it over: columns of JSON.

        A row holds the outcomes of a second, or of one picture that takes longer.
        """
        waiting: list[str] = []
        for outcome in self.outcomes([Task.from_json(str(text)) for text in block["task"]]):
            waiting.append(outcome.to_json())
            if (now := self._clock()) - self._reported >= _REPORT_S:
                self._reported = now
                yield {"outcomes": ["\n".join(waiting)]}
                waiting.clear()
        if waiting:
            yield {"outcomes": ["\n".join(waiting)]}

    def outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield what becomes of each task, in any order. No error of a picture ends the block."""
        jobs: list[Job] = []
        self._tasks = {task.index: task for task in tasks}
        for task in tasks:
            try:
                jobs.append(self._job(task))
            except SanaError as error:
                yield self._failed(task.index, error)
        batch = Batch(
            jobs=tuple(jobs), done={}, problems=(), model_digest=self.setup.model_digest,
            overwrite=self.setup.overwrite, renamed=(),
        )  # fmt: skip
        reported = set()
        for outcome in draw_batch(
            batch, draw=self._draw, encode_ahead=self._encode_ahead, advance=lambda *_: None
        ):
            reported.add(outcome.index)
            yield outcome
        for job in jobs:
            if job.index not in reported:  # the batch code found it on disk
                yield self._found(job)

    def close(self) -> None:
        """Give back all memory."""
        if self._pipeline is not None:
            self._pipeline.close()

    # -- one picture --

    def _job(self, task: Task) -> Job:
        """Resolve a task on this machine. SanaError for one that would become another picture than was planned."""
        options = task.generation_options
        params = resolve(options, self.checkpoint)
        wanted = picture_settings(params, self.checkpoint)
        if settings_digest(wanted) != task.planned:
            raise SanaError(
                f"{task.place} would not become the picture that was planned: "
                "a file that it uses differs on this machine",
                hint="put the model, LoRAs and pictures where all machines see the same files",
                code=ExitCode.ENVIRONMENT,
            )
        line = Line(order=task.index, place=Place(kind="line", number=task.index), options=options)
        path = self.output.local(task.name)
        return Job(index=task.index, line=line, params=params, path=path, wanted=wanted)

    def _draw(self, job: Job) -> Outcome:
        """Draw, save and send a picture; errors become outcomes. What is sent in vain is not drawn again."""
        name = self._tasks[job.index].name
        outcome = self._patiently(
            job, lambda: self._finished(job, name) or self._drawn(job), before_again=self._unload
        )
        if outcome.status == "drawn":
            outcome = self._patiently(job, lambda: self._published(job, name, outcome))
        if self.output.is_remote:
            job.path.unlink(missing_ok=True)
        return outcome

    def _patiently(
        self,
        job: Job,
        act: Callable[[], Outcome],
        *,
        before_again: Callable[[], None] | None = None,
    ) -> Outcome:
        """Return what an act returns; it is done again, later, where memory or the network failed."""
        for wait in (*_WAITS_S, None):
            try:
                return act()
            except Exception as error:  # noqa: BLE001 - a bug in one picture must not end the others
                failure = in_words(error)
            if failure.code != ExitCode.ENVIRONMENT or wait is None:
                break
            if before_again is not None:
                before_again()
            self._sleep(wait)
        return self._failed(job.index, failure)

    def _unload(self) -> None:
        if self._pipeline is not None:
            self._pipeline.unload()

    def _finished(self, job: Job, name: str) -> Outcome | None:
        found = None if self.setup.overwrite else self.output.settings_of(name)
        if found is None or not fits(found, job.wanted, self.setup.model_digest):
            return None
        return self._outcome(job, "done", found)

    def _published(self, job: Job, name: str, outcome: Outcome) -> Outcome:
        self.output.publish(job.path, name, overwrite=self.setup.overwrite)
        return outcome

    def _drawn(self, job: Job) -> Outcome:
        from sana_cli.pipeline.saving import draw_to_file

        saved = draw_to_file(
            self._opened(), job.params, job.path,
            overwrite=self.setup.overwrite or self.output.is_remote, quality=self.setup.quality,
        )  # fmt: skip
        components = self._opened().components
        return replace(
            self._outcome(job, "drawn", saved.settings),
            sha256=sha256_of(job.path),
            seconds={stage: round(value, 4) for stage, value in saved.seconds.items()},
            facts={**_facts(saved), "device": str(components.device),
                   "precision": str(components.dtypes), "kernels": components.kernels},
        )  # fmt: skip

    def _found(self, job: Job) -> Outcome:
        """Report a picture that is there: another attempt at this block, or another program, drew it."""
        from sana_cli.images.picture_file import read_settings

        try:
            outcome = self._outcome(job, "done", read_settings(job.path))
            return replace(outcome, sha256=sha256_of(job.path))
        except (SanaError, OSError) as error:
            return self._failed(job.index, in_words(error))

    def _outcome(self, job: Job, status: Any, settings: Mapping[str, Any]) -> Outcome:
        return Outcome(
            index=job.index, status=status, node=self.node, process=os.getpid(),
            settings=dict(settings),
        )  # fmt: skip

    def _failed(self, index: int, error: SanaError) -> Outcome:
        facts = {"code": int(error.code), "message": error.message, "hint": error.hint}
        return Outcome(
            index=index, status="error", node=self.node, process=os.getpid(), error=facts
        )

    def _encode_ahead(self, wanted: Sequence[GenerationParams]) -> None:
        """Encode the texts of a block; what fails here fails again with its picture, which reports it."""
        with suppress(SanaError, MemoryError, RuntimeError, OSError):
            self._opened().encode_ahead(wanted)

    def _opened(self) -> "SanaPipeline":
        if self._pipeline is None:
            from sana_cli.pipeline.pipeline import SanaPipeline
            from sana_cli.system.collector import freeze_imports
            from sana_cli.system.precision import pick_device

            runtime = RuntimeOptions.of(**self.setup.runtime)
            freeze_imports()
            # The next block has new texts: where there is room, the text encoder stays next to the other parts.
            self._pipeline = SanaPipeline(
                self.checkpoint, runtime, device=pick_device(runtime.device),
                reporter=SilentReporter(), expects="more",
            )  # fmt: skip
        return self._pipeline


def take_place(folder: str, environment: Mapping[str, str]) -> None:
    """Make this process see files as the driver does, and run as `sana` does. For a process of our own, before torch.

    A variable that the machine sets itself stays.
    """
    from sana_cli.system.allocator import set_up_allocator
    from sana_cli.system.cpu import limit_spinning

    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if os.path.isdir(folder):
        os.chdir(folder)
    set_up_allocator()
    limit_spinning()


def open_model(setup: Setup) -> Checkpoint:
    """Open the model of a run on this machine. SanaError where it is not here, or other files are."""
    checkpoint = replace(open_checkpoint(setup.model, offline=setup.offline), name=setup.model_name)
    if model_digest(checkpoint) != setup.model_digest:
        raise SanaError(
            f"{setup.model} holds other files on this machine than where the command was typed",
            hint="copy the model, or name a folder that all machines share",
            code=ExitCode.CHECKPOINT,
        )
    return checkpoint


def in_words(error: Exception) -> SanaError:
    """Say any error of a picture in one line; a bug is named by its type."""
    if isinstance(error, SanaError):
        return error
    return explained(error) or SanaError(
        f"a bug: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
        hint="draw this prompt alone, without --ray and with --debug, and report it",
    )


def _facts(saved: "SavedResult") -> dict[str, Any]:
    facts = {
        key: value for key, value in saved.facts().items() if key not in ("settings", "seconds")
    }
    if saved.passes is not None:
        facts["passes"] = asdict(saved.passes)
    return json.loads(json.dumps(facts))
