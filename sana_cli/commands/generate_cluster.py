"""`sana generate --prompts FILE --ray`: the pictures of a file of prompts, drawn by the machines of a Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_cli.checkpoints.opening import argument_for
from sana_cli.cluster.connection import connected, nodes_of
from sana_cli.cluster.locations import is_url, local_prompts
from sana_cli.cluster.manifest import MANIFEST, Manifest, RemoteManifest, manifest_path
from sana_cli.cluster.output import UrlOutput, split_output, stand_ins
from sana_cli.cluster.probe import ask_all, judge, sign
from sana_cli.cluster.request import Request
from sana_cli.cluster.rows import Rows
from sana_cli.cluster.run import draw_with_ray, warming_up
from sana_cli.cluster.sizing import Pool, plan_pool
from sana_cli.cluster.tasks import Outcome, Task
from sana_cli.cluster.worker import Setup
from sana_cli.commands.generate_batch import BatchDrawing, planned_batch
from sana_cli.commands.remember import remember
from sana_cli.errors import SanaError
from sana_cli.files import made_folder, temporary_folder
from sana_cli.pipeline.batch import Batch, Job
from sana_cli.remote.picture import RemotePicture
from sana_cli.request.prompt_file import Problem, read_prompt_file
from sana_cli.system.precision import pick_device
from sana_cli.terminal.batch_report import BatchReport
from sana_cli.text import counted

if TYPE_CHECKING:
    from sana_cli.commands.generate_session import GenerateSession

# Where models are; a node's own value wins.
_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "SANA_MODELS", "SANA_CACHE")


class ClusterBatch:
    """Draws one file of prompts on a cluster."""

    def __init__(
        self, session: "GenerateSession", request: Request, *, json: bool, offline: bool
    ) -> None:  # fmt: skip
        self.session, self.request, self._offline = session, request, offline
        self.output = str(session.options.output or "")
        self._remote: UrlOutput | None = None
        self._mirror = Path()  # stands for the folder at a URL
        self._failures: list[SanaError] = []
        self._rows = Rows(self._lasting_name)
        self.report = BatchReport(
            session.reporter, model=session.checkpoint.name, json=json,
            quiet=session.reporter.quiet, shown=self.shown,
        )  # fmt: skip

    def draw(self, prompts: str) -> None:
        """Plan, check the cluster, draw, and report. SanaError at the end where pictures are missing."""
        with self.report.counting():
            with self.report.telling_lines():
                found = read_prompt_file(local_prompts(prompts, self), called=prompts)
            self._choose_output()
            with self._naming_output(), self.report.telling_lines():
                batch = planned_batch(self.session, found)
                manifest = self._manifest(batch)
            self.report.planned(batch)
            problems = batch.problems
            refused: list[Job] = []
            if batch.pending and self.session.safety is not None:
                everything = batch.jobs
                drawing = BatchDrawing(self.session, self.report)
                # Here, on whatever is here: `--device` is about the nodes.
                batch = drawing.without_refused(batch, device=pick_device("auto"))
                left = {job.index for job in batch.jobs}
                refused = [job for job in everything if job.index not in left]
            self._run(batch, manifest, problems, refused)
        failures = [f for f in (self.report.failure, self.session.refusal) if f is not None]
        if self._failures:
            first, count = self._failures[0], len(self._failures)
            raise SanaError(
                f"{counted(count, 'picture')} could not be drawn; first, {first.message}",
                hint="the same command draws them again; "
                f"`error` in {manifest.called} says what happened to each",
                code=first.code,
            )
        if failures:
            raise failures[0]

    # -- before any work --

    def _choose_output(self) -> None:
        """Let a folder with stand-ins take the place of a URL, so that names and finished pictures are found as ever."""
        options = self.session.options
        if not is_url(options.output):
            return
        url, pattern = split_output(str(options.output))
        self._remote = UrlOutput(url)
        self._mirror = temporary_folder(self)
        stand_ins(self._remote, self._mirror)
        self.session.options = replace(options, output=f"{self._mirror}/{pattern}")

    def shown(self, path: Path) -> str:
        """Write a path as people know it: as a URL where it has one."""
        if self._remote is not None and path.is_relative_to(self._mirror):
            return f"{self._remote.url}/{path.relative_to(self._mirror)}"
        return str(path)

    def _is_there(self, name: str) -> bool:
        """Return whether a picture of an earlier manifest is where it was."""
        if self._remote is None:
            return os.path.lexists(name)
        return (self._mirror / name.rpartition("/")[2]).exists()

    def _lasting_name(self, job: Job) -> str:
        """Name a picture in the manifest, so that it is found from any folder."""
        return self.shown(job.path) if self._remote else str(job.path.absolute())

    @contextmanager
    def _naming_output(self) -> Iterator[None]:
        """Write the URL in errors, where the folder is that stands for it."""
        try:
            yield
        except SanaError as error:
            if self._remote is not None:
                folder, url = str(self._mirror), self._remote.url
                error.message = error.message.replace(folder, url)
                error.hint = error.hint.replace(folder, url)
            raise

    def _manifest(self, batch: Batch) -> Manifest:
        asked = self.request.manifest
        if self._remote is not None and asked is None:
            return RemoteManifest(self._remote, MANIFEST, self._mirror)
        if is_url(asked):
            url, _, name = str(asked).rpartition("/")
            return RemoteManifest(UrlOutput(url), name, temporary_folder(self))
        folder = next((job.path.parent for job in batch.jobs), Path())
        if self.output and Path(self.output).is_dir():
            folder = Path(self.output)
        return Manifest(manifest_path(asked, folder))

    def _setup(self, batch: Batch) -> Setup:
        session, checkpoint = self.session, self.session.checkpoint
        model = argument_for(checkpoint)
        if os.path.exists(model) and checkpoint.revision is None:
            model = os.path.abspath(model)
        return Setup(
            model=model, model_name=checkpoint.name, model_digest=batch.model_digest,
            output=self._remote.url if self._remote else "", folder=os.getcwd(),
            runtime=asdict(session.runtime), overwrite=session.overwrite,
            offline=self._offline, quality=session.options.quality,
            environment={name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
        )  # fmt: skip

    def _tasks(self, batch: Batch) -> list[Task]:
        common = replace(self.session.options, output=None)
        return [
            Task.of(job, common, job.path.name if self._remote else str(job.path.absolute()))
            for job in batch.pending
        ]

    # -- work --

    def _run(
        self, batch: Batch, manifest: Manifest, problems: tuple[Problem, ...], refused: list[Job]
    ) -> None:
        with manifest:
            earlier = manifest.earlier()
            others = self._rows.of_others(batch, earlier, self._is_there)
            if others:
                rows_ = counted(len(others), "row")
                self.session.reporter.notice(f"{manifest.called} keeps {rows_} of other pictures")
            known = self._rows.of_known(batch, earlier, problems, refused, self.session.refusal)
            rows = chain(others, known)
            if not batch.pending:
                manifest.begin(rows)
                return
            folder = self._mirror if self._remote else batch.pending[0].path.parent
            with made_folder(folder), connected(self.request.address) as ray:
                ready, pool = self._ready(ray, self._setup(batch), batch)
                self.session.reporter.notice(str(pool))
                manifest.begin(rows)
                self._draw(batch, manifest, draw_with_ray(ray, self._tasks(batch), ready, pool))

    def _draw(self, batch: Batch, manifest: Manifest, outcomes: Iterator[Outcome]) -> None:
        """Report each outcome, and add its row, as it comes."""
        jobs = {job.index: job for job in batch.jobs}
        before, total = len(batch.done), len(batch.jobs)
        self.session.reporter.count("pictures", before, total)
        for done, outcome in enumerate(outcomes, start=before + 1):
            job = jobs[outcome.index]
            self._report_outcome(job, outcome)
            manifest.add(self._rows.of_outcome(job, outcome))
            self.session.reporter.count("pictures", done, total)

    def _ready(self, ray: Any, setup: Setup, batch: Batch) -> tuple[Setup, Pool]:
        """Ask all nodes, and choose the workers. SanaError before anything is drawn."""
        reporter, session = self.session.reporter, self.session
        nodes = nodes_of(ray)
        folder = None if self._remote else batch.pending[0].path.parent
        with sign(setup, folder) as left, warming_up(ray):
            answers = ask_all(ray, nodes, setup, left)
        nodes = judge(nodes, answers, offline=setup.offline, model=setup.model, reporter=reporter)
        pool = plan_pool(
            session.checkpoint, session.runtime, batch.pending, nodes, workers=self.request.workers
        )
        runtime = {**setup.runtime, "device": pool.device, "max_memory": pool.max_memory}
        return replace(setup, runtime=runtime), pool

    def _report_outcome(self, job: Job, outcome: Outcome) -> None:
        failure = outcome.failure
        with self.session.reporter.paused():
            if failure is not None:
                self._failures.append(failure)
                self.report.failed(job, failure)
            elif outcome.status == "done":
                self.report.found(job, outcome.settings)
            else:
                said = {**outcome.facts, "seconds": outcome.seconds, "settings": outcome.settings}
                picture = RemotePicture.of(said, job.path)
                self.report.drawn(picture, picture.components)
                if self._remote is None:
                    remember(picture)
