"""Draw the pictures of a call of `sana generate`, with a server or here, and report them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sana_cli.commands.remember import remember
from sana_cli.config.choices import parse_bytes
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.remote.choice import find_server, only_here
from sana_cli.terminal.display import LivePreview, Seeing
from sana_cli.terminal.report import print_document, summary
from sana_cli.text import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sana_cli.cluster.request import Request
    from sana_cli.commands.generate_session import GenerateSession
    from sana_cli.commands.grid import Grid
    from sana_cli.commands.repeat import Picture
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.progress import Reporter
    from sana_cli.remote.artist import Artist, ServerChoice
    from sana_cli.remote.picture import RemotePicture
    from sana_cli.request.sweep import Axis
    from sana_cli.terminal.plain_reporter import PlainReporter
    from sana_cli.terminal.progress_bars import ConsoleReporter
    from sana_cli.terminal.report import Model, Parts


class Drawing(Protocol):
    """A `GenerateSession`, or a `RemoteSession`: they draw one prompt alike."""

    @property
    def reporter(self) -> "ConsoleReporter | PlainReporter": ...

    @property
    def checkpoint(self) -> "Model": ...

    @property
    def components(self) -> "Parts | None": ...

    @property
    def grid(self) -> "Grid | None": ...

    @property
    def refusal(self) -> SanaError | None: ...

    def single(self, picture: "Picture | None") -> "Iterator[SavedResult | RemotePicture]": ...


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Call:
    """A call: what was asked for, and what of it is drawn."""

    options: GenerationOptions
    typed: GenerationOptions
    picture: "Picture | None"
    prompts: str | None
    seeing: Seeing
    grid: bool
    overwrite: bool
    json: bool
    is_checked: bool  # by `--safety`
    is_dry: bool  # by `--dry-run`
    check_source: str  # the setting that asks for the check; "": an option
    in_vain: tuple[str, ...]  # notices on options and variables without effect
    axes: "list[Axis]"  # options with several values
    cluster: "Request | None" = None  # that `--ray` asks for
    best_of: tuple[int, str] | None = None  # seeds, and the command that scores their pictures
    left: list[tuple[int, Path]] = field(
        default_factory=list
    )  # seeds and files that a server has left
    _server: "ServerChoice | None" = None
    _handed_over: list[str] = field(default_factory=list)
    _drawn: "list[SavedResult | RemotePicture]" = field(default_factory=list)

    def notices(self) -> list[str]:
        """The notices that come first; each is given once."""
        lines = [*self.in_vain, *self._handed_over]
        self.in_vain = ()
        self._handed_over.clear()
        return lines

    @property
    def is_local(self) -> bool:
        """Return whether no server draws."""
        return self._server is None

    def find_server(self, chosen: str) -> None:
        """Find the server that is to draw. SanaError where the user insists on one that does not."""
        if self.best_of is not None:
            for other, given in (
                ("--prompts", self.prompts), ("--grid", self.grid), ("options with several values", self.axes),
                ("--count", self.typed.count is not None),
            ):  # fmt: skip
                if given:
                    raise usage_error(f"give --best-of or {other}, not both", f"omit {other}")
            self.options = replace(self.options, count=self.best_of[0] if self.is_dry else None)
        server = find_server(chosen)
        if server is None:
            return
        checks_there = server.checks_prompts
        reason = only_here(self.options, checks=self.is_checked, server_checks=checks_there)
        if self.best_of is not None:
            reason = "scores no pictures"
        if reason and server.insists:
            raise SanaError(
                f"{server.name} {reason}", hint="draw here: --local", code=ExitCode.ENVIRONMENT
            )
        if reason:
            self._handed_over.append(f"{server.name} {reason}: drawn here")
        else:
            self._server = server

    def artist(self, reporter: "Reporter") -> "Artist | None":
        """Make the artist that draws with the server, if one is to draw."""
        if self._server is None:
            return None
        from sana_cli.remote.artist import Artist

        return Artist(self._server, reporter)

    def draw_remotely(self, *, quiet: bool) -> bool:
        """Draw one new prompt with the server. False where pictures are left, which are drawn in another way."""
        if self._server is None or self.prompts or self.axes or self.picture is not None:
            return False
        from sana_cli.commands.remote_session import RemoteSession
        from sana_cli.remote.artist import Artist, Unavailable

        with _reporter(quiet=quiet) as reporter:
            for line in self.notices():
                reporter.notice(line)
            artist = Artist(self._server, reporter)
            live = LivePreview(self.seeing, reporter)
            artist.watching = live.watching
            session = RemoteSession(
                options=self.options, overwrite=self.overwrite, reporter=reporter, artist=artist,
                grid=self.grid,
            )  # fmt: skip
            try:
                self.draw(session, live=live)
            except Unavailable as error:
                artist.hand_over(error)
                self.left, self._server = session.left, None
                return False
        return True

    def draw(self, session: Drawing, *, live: LivePreview) -> None:
        """Draw, and report every picture as soon as it is there, whatever happens to the next one."""
        sheet, is_over = None, True
        try:
            for finished in session.single(self.picture):
                self._drawn.append(finished)
                remember(finished)
                lines = [] if self.json else summary(finished, quiet=session.reporter.quiet)
                self._show(session, live, finished, lines)
            if session.grid is not None:
                sheet = self._sheet(session)
            if session.refusal:
                raise session.refusal
        except Exception as error:
            is_over = isinstance(error, SanaError)  # else somebody draws the rest
            raise
        finally:
            if self.json and self._drawn and is_over:
                parts = session.components
                with session.reporter.paused():
                    print_document(
                        session.checkpoint,
                        self._drawn,
                        device=parts.device if parts else None,
                        precision=str(parts.dtypes) if parts else None,
                        kernels=parts.kernels if parts else {},
                        sheet=sheet,
                    )

    def draw_batch(self, session: "GenerateSession", prompts: str, *, live: LivePreview) -> None:
        """Draw a file of prompts, and report every picture as soon as it is there."""
        from sana_cli.terminal.batch_report import BatchReport

        reporter = session.reporter
        report = BatchReport(
            reporter, model=session.checkpoint.name, json=self.json, quiet=reporter.quiet
        )
        with report.counting():
            for finished in session.batch(prompts, report):
                self._drawn.append(finished)
                remember(finished)
                with reporter.paused():
                    live.clear()
                    report.drawn(finished, session.components)
                    if session.grid is None:
                        self.seeing.show(finished.path)
        if session.grid is not None and (
            sheet := session.grid.save(self._drawn, session.checkpoint.name)
        ):
            with reporter.paused():
                report.sheet(sheet)
                self.seeing.show(sheet)
        if failure := report.failure or session.refusal:
            raise failure

    def _show(
        self, session: Drawing, live: LivePreview, finished: "SavedResult | RemotePicture", lines: list[str]
    ) -> None:  # fmt: skip
        with session.reporter.paused():
            live.clear()
            say(*lines)
            if session.grid is None:
                self.seeing.show(finished.path)

    def _sheet(self, session: Drawing) -> Path | None:
        assert session.grid is not None
        sheet = session.grid.save(self._drawn, session.checkpoint.name)
        if sheet is not None:
            with session.reporter.paused():
                if not self.json:
                    say(str(sheet))
                self.seeing.show(sheet)
        return sheet


def with_settings(
    typed: GenerationOptions, settings: GenerationOptions, picture: "Picture | None" = None
) -> GenerationOptions:
    """Combine what was typed with the picture that is repeated and with the user's settings. SanaError (usage)."""
    options = (picture.changed_by(typed) if picture else typed).over(settings)
    if picture:  # it is one picture, whatever a setting says
        options = replace(options, count=typed.count)
    if options.max_memory:
        parse_bytes(options.max_memory)
    return options


def _reporter(*, quiet: bool) -> "ConsoleReporter | PlainReporter":
    """A reporter with bars where they would be seen; else one that needs no Rich."""
    from sana_cli.terminal.plain_reporter import PlainReporter, draws_bars

    if not draws_bars(quiet=quiet):
        return PlainReporter(quiet=quiet)
    from sana_cli.terminal.progress_bars import ConsoleReporter

    return ConsoleReporter(quiet=quiet)
