"""Report a batch while it is drawn: one line per picture, for people or as JSON, as soon as it is saved."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.prompt_file import NothingToDraw, Problem, summed_up
from sana_cli.terminal.report import picture_facts
from sana_cli.text import counted, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sana_cli.pipeline.batch import Batch, Job
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.remote.picture import RemotePicture
    from sana_cli.request.prompt_entries import Place
    from sana_cli.terminal.plain_reporter import PlainReporter
    from sana_cli.terminal.progress_bars import ConsoleReporter
    from sana_cli.terminal.report import Parts

_SHOWN = 10  # lines that cannot be drawn


class BatchReport:
    """Reports a batch and counts its pictures, so that an early end can say how many are done."""

    def __init__(
        self, reporter: "ConsoleReporter | PlainReporter", *, model: str, json: bool, quiet: bool,
        shown: "Callable[[Path], str]" = str,
    ) -> None:  # fmt: skip
        """`shown` writes the path of a picture."""
        self._shown, self._failures = shown, 0
        self.reporter, self.model, self.json, self.quiet = reporter, model, json, quiet
        self.failure: SanaError | None = None  # of lines that cannot be drawn, while the others are
        self._jobs: dict[Path, Job] = {}
        self._total = self._done = 0

    def planned(self, batch: "Batch") -> None:
        """Report what cannot be drawn, and what exists already."""
        self._jobs = {job.path: job for job in batch.jobs}
        self._total, self._done = len(batch.jobs), len(batch.done)
        self.undrawable(batch.problems)
        if batch.done:
            left = len(batch.pending)
            self.reporter.notice(
                f"{self._done} of {self._total} pictures are done: "
                + (f"{left} to draw" if left else "nothing to draw")
            )
        if batch.renamed:
            names = counted(len(batch.renamed), "name")
            verb = "belongs" if len(batch.renamed) == 1 else "belong"
            self.reporter.notice(
                f"{names} {verb} to other pictures, which stay: drawn as {self._shown(batch.renamed[0])}"
                + (" and so on" if len(batch.renamed) > 1 else "")
            )
        if self.json:
            for job in batch.jobs:
                if (settings := batch.done.get(job.path)) is not None:
                    self._print_done(job, settings)

    def undrawable(self, problems: "tuple[Problem, ...]") -> None:
        """Report lines that cannot be drawn."""
        for number, problem in enumerate(problems):
            if self.json:
                print_json({
                    "status": "error", **place_facts(problem.place), "id": problem.id,
                    "error": error_facts(problem.error),
                })  # fmt: skip
            if number < _SHOWN:
                self.reporter.notice(f"not drawn: {problem.error.message}")
        if len(problems) > _SHOWN:
            self.reporter.notice(f"not drawn: {len(problems) - _SHOWN} more lines")
        if problems:
            self.failure = summed_up(problems)

    @contextmanager
    def telling_lines(self) -> "Iterator[None]":
        """Report each line of a file, none of which can be drawn, before the error of the block."""
        try:
            yield
        except NothingToDraw as error:
            if self.json or len(error.problems) > 1:  # the error says what is wrong with the first
                self.undrawable(error.problems)
            raise

    def refused(self, job: "Job", error: SanaError) -> None:
        """Report a picture whose prompt was refused."""
        self._total -= 1
        self.reporter.notice(f"{job.line.place}: {error.message}")
        if self.json:
            self._print(job, status="error", error=error_facts(error))

    def failed(self, job: "Job", error: SanaError) -> None:
        """Report a picture that could not be drawn, while others are."""
        self._failures += 1
        if self._failures <= _SHOWN:
            self.reporter.notice(f"not drawn: {job.line.place}: {error.message}")
        if self.json:
            self._print(job, status="error", error=error_facts(error))

    def found(self, job: "Job", settings: "Mapping[str, Any]") -> None:
        """Report a picture that was not there at first, and that another process has drawn."""
        self._done += 1
        if self.json:
            self._print_done(job, settings)
        else:
            say(self._shown(job.path))
            sys.stdout.flush()

    def drawn(self, picture: "SavedResult | RemotePicture", components: "Parts | None") -> None:
        """Report a new picture, at once even through a pipe."""
        self._done += 1
        if self.json:
            assert components is not None
            self._print(
                self._jobs[picture.path], status="drawn", device=str(components.device),
                precision=str(components.dtypes), kernels=components.kernels, **picture_facts(picture),
            )  # fmt: skip
            return
        seconds = f"{picture.seconds['total']:.1f} s"
        about = f"  seed {picture.seed}  {picture.width}x{picture.height}  {seconds}"
        say(self._shown(picture.path) + ("" if self.quiet else about))
        sys.stdout.flush()

    def sheet(self, path: "Path") -> None:
        """Report the contact sheet."""
        if self.json:
            print_json({"status": "grid", "path": str(path)})
        else:
            say(str(path))
        sys.stdout.flush()

    def _print_done(self, job: "Job", settings: "Mapping[str, Any]") -> None:
        width, height = map(int, str(job.wanted["size"]).split("x"))
        self._print(
            job, status="done", seed=job.named.seed, width=width, height=height,
            settings=dict(settings),
        )  # fmt: skip

    def _print(self, job: "Job", *, status: str, **facts: Any) -> None:
        print_json({
            "status": status, "index": job.index, **place_facts(job.line.place),
            "id": job.line.id, "path": self._shown(job.path), "model": self.model,
            **{name: value for name, value in facts.items() if name != "path"},
        })  # fmt: skip
        sys.stdout.flush()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Make an interruption in the block say how many pictures are done."""
        try:
            yield
        except (KeyboardInterrupt, SanaError) as error:
            if isinstance(error, SanaError) and error.code != ExitCode.INTERRUPTED:
                raise
            if not self._total:  # nothing is planned yet
                raise
            raise SanaError(
                f"interrupted: {self._done} of {counted(self._total, 'picture')} are done",
                hint="the same command draws the others",
                code=ExitCode.INTERRUPTED,
            ) from error


def place_facts(place: "Place") -> dict[str, Any]:
    """Return the place of a line, for programs: {"line": 3}, {"item": 3} of an array; with "file"
    in a folder.
    """
    return {place.kind: place.number, **({"file": place.file} if place.file else {})}


def error_facts(error: SanaError) -> dict[str, Any]:
    return {"code": int(error.code), "message": error.message, "hint": error.hint}
