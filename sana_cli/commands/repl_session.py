"""Run the lines of `sana repl`: a prompt is drawn, a `/command` changes settings. No torch until the first picture.

The model stays loaded, and a setting holds until it is changed. A line that fails raises a `SanaError` and changes
nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.commands.generate_session import GenerateSession
from sana_cli.commands.remember import remember
from sana_cli.commands.repeat import open_model
from sana_cli.commands.repl_options import SessionOptions, check
from sana_cli.commands.repl_setters import DEFAULT, OFF, ON, SETTERS
from sana_cli.commands.repl_words import (
    COMMANDS,
    OTHERS,
    SWITCHES,
    help_lines,
    in_commands,
    in_words,
)
from sana_cli.config.choices import Scheduler
from sana_cli.config.generation import GenerationOptions, uses_wildcards
from sana_cli.config.user_settings import SETTINGS
from sana_cli.errors import usage_error
from sana_cli.pipeline.safety import SafetyCheck
from sana_cli.remote.choice import only_here
from sana_cli.terminal.display import LivePreview, Seeing
from sana_cli.terminal.report import summary
from sana_cli.terminal.viewer import open_in_viewer
from sana_cli.text import closest, columns, say, yes_or_no

if TYPE_CHECKING:
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.remote.artist import Artist, ServerChoice
    from sana_cli.remote.picture import RemotePicture
    from sana_cli.terminal.progress_bars import ConsoleReporter

SWITCH_VALUES = (ON, OFF, DEFAULT)
_HELP = ("help", "?", "/?")
_LEAVE = ("exit", "quit", "/exit", ":q")


class Looks(Protocol):
    """Choose the display of pictures and previews; None: not set by the user. Raises SanaError if it is impossible."""

    def __call__(self, *, show: bool | None, preview: bool | None) -> Seeing: ...


class Session:
    """A session of `sana repl`. `take` runs a line."""

    def __init__(
        self,
        options: GenerationOptions,
        *,
        offline: bool,
        yes: bool,
        safety: SafetyCheck | None,
        reporter: "ConsoleReporter",
        looks: Looks,
        show: bool | None = None,
        server: "ServerChoice | None" = None,
    ) -> None:
        """Raises SanaError for a model that cannot be opened, or settings that do not fit it.

        `server` draws as long as it answers.
        """
        self.offline, self.yes = offline, yes
        self.safety, self.reporter, self.looks = safety, reporter, looks
        self._server = server
        self.options = SessionOptions(options, self._found(options))
        self.drawing = self._session(self.options)
        self.switched: dict[str, bool | None] = {"show": show, "preview": None}
        self.seeing = looks(show=show, preview=None)
        self._told_comment = False
        self.last: SavedResult | RemotePicture | None = None

    @property
    def draws_remotely(self) -> bool:
        """Check whether a server draws."""
        return self.drawing.artist is not None

    @property
    def model(self) -> str:
        return self.options.checkpoint.name

    @property
    def schedulers(self) -> list[str]:
        """The schedulers that fit the model."""
        sprint = self.options.checkpoint.transformer.guidance_embeds
        return [name for name in Scheduler if (name == Scheduler.SCM) == sprint]

    def take(self, line: str) -> bool:
        """Run a line. Returns False if it ends the session."""
        text = line.strip()
        word = text.lower()
        if word in _LEAVE:
            return False
        if word in _HELP:
            text = "/help"
        if not text.startswith("/"):
            if text.startswith("#"):
                self._tell_comment()
            elif text:
                self._draw(*self.options.for_line(text, last_seed=self._last_seed))
            return True
        name, _, value = text.partition(" ")
        self._command(name, value.strip())
        return name != "/quit"

    def _command(self, name: str, value: str) -> None:
        if name in SETTERS:
            self._set(name, self._last_seed() if (name, value) == ("/seed", "last") else value)
        elif name in SWITCHES:
            self._switch(name, value)
        elif name == "/model":
            self._turn_to_model(value)
        elif name not in OTHERS:
            near = closest(name, COMMANDS)
            meant = f", did you mean {near}?" if near else ""
            raise usage_error(f"there is no command {name}{meant}", "/help lists them")
        elif value:
            raise usage_error(
                f"{name} takes no value, but was given {value!r}", f"type {name} alone"
            )
        elif name == "/help":
            _tell(help_lines())
        elif name == "/settings":
            self._tell_settings()
        elif name == "/again":
            settings, now = self._last().settings, self.options.now
            template = settings.get("template") if uses_wildcards(now) else None
            self._draw(str(template or settings["prompt"]), now)
        elif name == "/info":
            _tell(
                [
                    f"{key}: {yes_or_no(value)}"
                    for key, value in self._last().settings.items()
                    if value != ""
                ]
            )
        elif name == "/open":
            open_in_viewer(self._last().path)

    def _last(self) -> "SavedResult | RemotePicture":
        if self.last is None:
            raise usage_error("no picture has been drawn yet", "type what to draw")
        return self.last

    def _last_seed(self) -> str:
        return str(self._last().seed)

    def _tell_comment(self) -> None:
        """Say once why nothing is drawn."""
        if not self._told_comment:
            self._told_comment = True
            self.reporter.notice("lines that begin with # are comments, and are not drawn")

    def _draw(self, prompt: str, options: GenerationOptions) -> None:
        live = LivePreview(self.seeing, self.reporter)
        self.drawing.watching = live.watching
        with self.reporter:
            for picture in self.drawing.next(replace(options, prompt=prompt)):
                remember(picture)
                self.last = picture
                with self.reporter.paused():
                    live.clear()
                    say(*summary(picture, quiet=self.reporter.quiet))
                    self.seeing.show(picture.path)

    def _set(self, name: str, value: str) -> None:
        options = self.options
        if not value:
            _tell([f"{name[1:]} {self._now(name)}"])
            check(options.now, options.checkpoint)
            return
        changed, still = options.set(name, value)
        if still is not None:
            self.reporter.notice(f"{name[1:]} {value}, but still: {in_commands(still.message)}")
        elif not self.reporter.quiet:
            _tell([f"{n[1:]} {self._now(n)}" for n in changed])

    def _switch(self, name: str, value: str) -> None:
        key = name[1:]
        if value:
            try:
                wanted = None if value == DEFAULT else bool(SETTINGS[key].parse(value))
            except ValueError as error:
                raise usage_error(
                    f"{name} cannot be {value!r}", f"it should be {' or '.join(SWITCH_VALUES)}"
                ) from error
            switched = {**self.switched, key: wanted}
            self.seeing = self.looks(show=switched["show"], preview=switched["preview"])
            self.switched = switched
            for message in self.seeing.in_vain:
                if message.startswith(f"--{key}"):
                    self.reporter.notice(in_commands(message))
        if not (value and self.reporter.quiet):
            _tell([f"{key} {self._now(name)}"])

    def _now(self, name: str) -> str:
        """The value of a setting, in words."""
        if name in SWITCHES:
            seeing = self.seeing
            return ON if (seeing.shows if name == "/show" else seeing.previews) else OFF
        return in_words(name, self.options.now, self.options.params())

    def _tell_settings(self) -> None:
        names = (*SETTERS, *SWITCHES)
        _tell(columns([("model", self.model), *((n[1:], self._now(n)) for n in names)]))
        check(self.options.now, self.options.checkpoint)  # what has gone is shown, too

    def _turn_to_model(self, name: str) -> None:
        if name:
            typed = GenerationOptions(model=name)
            checkpoint = self._found(typed.over(self.options.now))
            options = self.options.turned_to(typed, checkpoint)
            self.options, self.drawing = options, self._session(options)
        _tell([f"model {self.model}"])

    def _found(self, options: GenerationOptions) -> Checkpoint:
        with self.reporter:
            return open_model(
                options, None, offline=self.offline, yes=self.yes, reporter=self.reporter
            )

    def _session(self, options: SessionOptions) -> GenerateSession:
        return GenerateSession(
            options=options.now, checkpoint=options.checkpoint, overwrite=False,
            reporter=self.reporter, safety=self.safety, artist=self._artist(options.now),
        )  # fmt: skip

    def _artist(self, options: GenerationOptions) -> "Artist | None":
        """The artist that draws with the server; None where the prompts are drawn here."""
        if self._server is None:
            return None
        from sana_cli.remote.artist import Artist, Unavailable

        artist = Artist(self._server, self.reporter)
        checked_there = self._server.checks_prompts
        if reason := only_here(
            options, checks=self.safety is not None, server_checks=checked_there
        ):
            artist.hand_over(Unavailable(reason))
            return None
        return artist


def _tell(lines: "Iterator[str] | list[str]") -> None:
    say(*lines, err=True)
