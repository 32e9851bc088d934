"""`sana generate --prompts`: a file of prompts, each picture drawn with a server or here."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sana_cli.errors import ExitCode, SanaError
from sana_cli.pipeline.batch import Batch, Job, draw_batch, plan_batch
from sana_cli.request.output_paths import tell_quality
from sana_cli.request.params import GenerationParams
from sana_cli.request.prompt_file import NothingToDraw, PromptFile, read_prompt_file
from sana_cli.system.precision import foresee_device, pick_device
from sana_cli.text import slug

if TYPE_CHECKING:
    import torch

    from sana_cli.commands.generate_session import GenerateSession
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.remote.picture import RemotePicture
    from sana_cli.terminal.batch_report import BatchReport


class BatchDrawing:
    """Draws the batch of a session, and reports refused prompts."""

    def __init__(self, session: "GenerateSession", report: "BatchReport") -> None:
        self._session, self._report = session, report

    def drawn(self, prompts: str | Batch) -> Iterator["SavedResult | RemotePicture"]:
        """Draw the pictures of a file of prompts, or planned ones, except finished ones."""
        session = self._session
        with self._report.telling_lines():
            batch = planned_batch(session, prompts) if isinstance(prompts, str) else prompts
        self._report.planned(batch)
        with session.options.naming_source_of("output"):
            if session.grid:
                name = "prompts" if prompts == "-" else slug(Path(str(prompts)).stem)
                session.grid.plan(len(batch.jobs), name)
                session.grid.jobs = batch.jobs
        if not batch.pending:
            return
        if session.artist is None:
            batch = self.without_refused(batch)
        if batch.pending:
            pictures: Iterator[SavedResult | RemotePicture] = draw_batch(
                batch,
                draw=self._draw,
                encode_ahead=self._encode_ahead,
                advance=lambda done, total: session.reporter.count("pictures", done, total),
            )
            yield from pictures

    def without_refused(self, batch: Batch, *, device: "torch.device | None" = None) -> Batch:
        """Check the prompts on a device, by default the one that draws, and report those that are refused."""
        session, pending = self._session, batch.pending
        device = device or session.find_device(None, pick_device)
        refused = session.refused([job.params.prompt for job in pending], device)
        for job in pending:
            if job.params.prompt in refused:
                self._report.refused(job, refused[job.params.prompt])
        batch = batch.without(refused)
        if session.grid:
            session.grid.jobs = batch.jobs
        if refused:
            session.refusal = next(iter(refused.values()))
            if len(refused) > 1:
                one = session.refusal.message
                session.refusal.message = f"{len(refused)} prompts are refused; first, {one}"
        return batch

    def _draw(self, job: Job) -> "SavedResult | RemotePicture | None":
        """Draw a picture with the server, or here; None for one that is refused."""
        from sana_cli.remote.artist import Unavailable

        session = self._session
        try:
            if session.artist is not None:
                return self._drawn_remotely(job)
        except Unavailable as error:
            assert session.artist is not None
            session.artist.hand_over(error)
            session.artist, self._checks_each = None, session.safety is not None
        except SanaError as error:
            if error.code != ExitCode.REFUSED:
                raise
            self._refuse(job, error)
            return None
        from sana_cli.pipeline.saving import draw_to_file

        if self._checks_each:  # the server would have checked it
            device = session.find_device(None, pick_device)
            refused = session.refused([job.params.prompt], device)
            if refused:
                self._refuse(job, refused[job.params.prompt])
                return None
        return draw_to_file(
            session.several(),
            job.params,
            job.path,
            overwrite=session.overwrite,
            quality=session.options.quality,
        )

    _checks_each = False  # prompts that nobody has checked before

    def _drawn_remotely(self, job: Job) -> "RemotePicture":
        session = self._session
        assert session.artist is not None
        session.artist.watching = session.watching
        common = replace(session.options, output=None, count=None)
        options = replace(job.line.options.over(common), seed=job.params.seed)
        drawn = session.artist.draw(options, [job.path], overwrite=session.overwrite)
        return next(iter(list(drawn)))

    def _refuse(self, job: Job, error: SanaError) -> None:
        self._report.refused(job, error)
        self._session.refusal = self._session.refusal or error

    def _encode_ahead(self, wanted: Sequence[GenerationParams]) -> None:
        """Encode texts with one load of their encoder, where pictures are drawn here."""
        if self._session.artist is None:
            self._session.several().encode_ahead(wanted)


def planned_batch(
    session: "GenerateSession", prompts: str | PromptFile, *, name: str | None = None
) -> Batch:
    """Plan all pictures of a file of prompts: every line is checked before any is drawn. `name`: as for `plan_batch`."""
    found = read_prompt_file(prompts) if isinstance(prompts, str) else prompts
    for message in found.notices:
        session.reporter.notice(message)
    with session.options.naming_source_of("output"):
        batch = plan_batch(
            found, session.options, session.checkpoint, overwrite=session.overwrite, name=name
        )
    tell_quality(session.options, [job.path for job in batch.jobs], session.reporter)
    session.tell_syntax(
        *((job.params.prompt, job.line.options.over(session.options)) for job in batch.jobs)
    )
    return batch


def print_forecast(session: "GenerateSession", prompts: str | Batch, *, json: bool) -> None:
    """Count the pictures of a file of prompts, and show what the largest takes."""
    from sana_cli.commands.dry_run import print_batch_forecast

    try:
        batch = planned_batch(session, prompts) if isinstance(prompts, str) else prompts
    except NothingToDraw as error:
        batch = Batch.of_nothing(error.problems)
    device = session.find_device(None, foresee_device)
    print_batch_forecast(
        session.checkpoint, batch, session.runtime, device, cap_source=session.cap_source, json=json
    )
