"""Draw a sweep: options with several values, all combinations of them, and a labelled sheet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sana_cli import __version__
from sana_cli.commands.generate_batch import planned_batch, print_forecast
from sana_cli.commands.remember import remember
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError
from sana_cli.request.output_paths import Target
from sana_cli.request.sweep import NAME, Sweep, with_one_seed
from sana_cli.text import say, slug

if TYPE_CHECKING:
    from sana_cli.commands.generate_call import Call
    from sana_cli.commands.generate_session import GenerateSession
    from sana_cli.pipeline.batch import Batch, Job
    from sana_cli.terminal.display import LivePreview, Seeing
    from sana_cli.terminal.progress_bars import ConsoleReporter

OpenSession = Callable[[GenerationOptions], "GenerateSession"]


def sweep(
    call: "Call", opened: OpenSession, *, live: "LivePreview", reporter: "ConsoleReporter"
) -> None:
    """Draw a picture for each combination of a call's options that have several values, or count them."""
    options, axes = with_one_seed(call.options, call.axes)
    run = SweepRun(
        Sweep(axes), options, opened, reporter=reporter, grid=call.grid, overwrite=call.overwrite
    )
    if call.is_dry:
        run.print_forecast(json=call.json)
    else:
        run.draw(call.seeing, live, json=call.json)


class SweepRun:
    """The runs of a sweep, one a model. All are planned before the first picture: mistakes cost no time."""

    def __init__(
        self, sweep: Sweep, options: GenerationOptions, open_session: OpenSession,
        *, reporter: "ConsoleReporter", grid: bool, overwrite: bool,
    ) -> None:  # fmt: skip
        """SanaError for any picture that cannot be drawn."""
        self.sweep, self.options, self.reporter = sweep, options, reporter
        self.overwrite = overwrite
        self.sheet_path = self._place_sheet(options) if grid else None
        self._runs: list[tuple[GenerateSession, Batch]] = []
        output = sweep.output_of(options)
        for run in sweep.runs():
            typed = {key: where for key, where in options.sources.items() if key not in run}
            session = open_session(replace(options, **run, output=output, sources=typed))
            batch = planned_batch(session, sweep.pictures(options, run), name=NAME)
            for problem in batch.problems:
                raise problem.error
            self._runs.append((session, batch))

    def print_forecast(self, *, json: bool) -> None:
        """Count the pictures, and show what the largest of each run takes."""
        if not json:
            say(str(self.sweep))
        for session, batch in self._runs:
            print_forecast(session, batch, json=json)

    def draw(self, seeing: "Seeing", live: "LivePreview", *, json: bool) -> None:
        """Draw the pictures, report each as soon as it is there, then the sheet."""
        from sana_cli.terminal.batch_report import BatchReport

        failure: SanaError | None = None
        report = None
        for session, batch in self._runs:
            name = session.checkpoint.name
            report = BatchReport(self.reporter, model=name, json=json, quiet=self.reporter.quiet)
            with report.counting(), _closing(session):
                for finished in session.batch(batch, report):
                    remember(finished)
                    with self.reporter.paused():
                        live.clear()
                        report.drawn(finished, session.components)
                        if self.sheet_path is None:
                            seeing.show(finished.path)
                failure = failure or report.failure or session.refusal
        if self.sheet_path is not None and report is not None and not failure:
            sheet = self._save_sheet(self.sheet_path)
            with self.reporter.paused():
                report.sheet(sheet)
                seeing.show(sheet)
        if failure:
            raise failure

    # -- the sheet --

    def _place_sheet(self, options: GenerationOptions) -> Path:
        from sana_cli.images.contact_sheet import ContactSheet

        target = Target.of_options(options)
        # A sheet that is there is kept or gets a neighbour when this one is saved: a rerun must not end here.
        sheet = ContactSheet(
            target.path, name=slug(options.prompt or ""), overwrite=True, is_folder=target.is_folder
        )
        return sheet.path

    def _save_sheet(self, path: Path) -> Path:
        import os

        from sana_cli.images.contact_sheet import is_saved
        from sana_cli.images.file_names import free_name
        from sana_cli.images.labelled_sheet import LabelledSheet
        from sana_cli.images.picture_file import SHEET_KEY, load_picture, read_settings
        from sana_cli.images.png import save_png

        jobs: dict[str | None, Job] = {
            job.line.id: job for _, batch in self._runs for job in batch.jobs
        }
        columns, rows, blocks = self.sweep.sheet_axes
        largest = (
            max(job.params.width for job in jobs.values()),
            max(job.params.height for job in jobs.values()),
        )
        sheet = LabelledSheet.of(
            columns.labels,
            rows.labels if rows else [""],
            blocks.labels if blocks else [""],
            largest,
        )
        order = [jobs[name] for name in self.sweep.in_sheet_order()]
        settings = {
            "prompt": self.options.prompt or "",
            "version": __version__,
            "axes": {axis.name: axis.labels for axis in (columns, rows, blocks) if axis},
            SHEET_KEY: {
                os.path.relpath(job.path, path.parent): f"{job.params.prompt} {job.line.id}"
                for job in order
            },
        }
        taken = {job.path for job in order}
        if not self.overwrite and is_saved(path, settings, taken):
            return path
        path = free_name(path, lambda p: p in taken or (os.path.lexists(p) and not self.overwrite))
        image = sheet.compose(load_picture(job.path) for job in order)
        first = read_settings(order[0].path)
        save_png(image, path, settings=settings, first=first, overwrite=self.overwrite)
        return path


@contextmanager
def _closing(session: "GenerateSession") -> Iterator[None]:
    try:
        yield
    finally:
        session.close()
