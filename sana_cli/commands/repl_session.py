"""What the lines of `sana repl` do: a prompt is drawn, `/command` changes how. No torch until the first picture.

The model stays loaded, and a setting that was made holds until it is changed. A line that cannot be done raises a
`SanaError` and changes nothing.
"""

import difflib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.commands.generate_session import Order, open_model
from sana_cli.commands.repl_prompt_line import OptionError, split_options
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
from sana_cli.config.user_settings import SETTINGS
from sana_cli.errors import SanaError, usage_error
from sana_cli.files import local_path, no_folder
from sana_cli.images.file_names import is_pattern
from sana_cli.pipeline.safety import SafetyCheck
from sana_cli.request.options import Wishes
from sana_cli.request.params import Settings, resolve
from sana_cli.terminal.display import LivePreview, Seeing
from sana_cli.terminal.help import ALIASES
from sana_cli.terminal.report import summary
from sana_cli.terminal.viewer import open_in_viewer
from sana_cli.text import columns, say

if TYPE_CHECKING:
    from sana_cli.pipeline.finishing import Picture as Finished
    from sana_cli.terminal.progress_bars import ConsoleReporter

SWITCH_VALUES = (ON, OFF, DEFAULT)
_HELP = ("help", "?", "/?")
_LEAVE = ("exit", "quit", "/exit", ":q")
_MOST = 1000  # pictures of one line
_ALIASES = {f"/{alias[2:]}": f"/{name}" for name, aliases in ALIASES.items() for alias in aliases}


class Looks(Protocol):
    """What people see of pictures, from what was said about it; None for nothing. SanaError for what cannot be."""

    def __call__(self, *, show: bool | None, preview: bool | None) -> Seeing: ...


class Session:
    """One sitting. `take` does what a line says."""

    def __init__(
        self,
        wishes: Wishes,
        *,
        offline: bool,
        yes: bool,
        safety: SafetyCheck | None,
        reporter: "ConsoleReporter",
        looks: Looks,
        count: int = 1,
        show: bool | None = None,
    ) -> None:
        """SanaError for a model that cannot be opened, or settings that do not fit it."""
        self.offline, self.yes = offline, yes
        self.safety, self.reporter, self.looks = safety, reporter, looks
        self.count = count
        self.usual = wishes  # what `default` goes back to
        self.order = self._opened(wishes)
        self.wishes = wishes
        self.switched: dict[str, bool | None] = {"show": show, "preview": None}
        self.seeing = looks(show=show, preview=None)
        self._told_comment = False
        self.last: Finished | None = None

    @property
    def model(self) -> str:
        return self.order.checkpoint.name

    @property
    def schedulers(self) -> list[str]:
        """Those that fit the model."""
        sprint = self.order.checkpoint.transformer.guidance_embeds
        return [name for name in Scheduler if (name == Scheduler.SCM) == sprint]

    def take(self, line: str) -> bool:
        """Do what a line says; False when it says to leave."""
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
                self._draw(*self._with_options(text))
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
        elif name == "/count":
            self._set_count(value)
        elif name not in OTHERS:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f", did you mean {close[0]}?" if close else ""
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
            self._draw(str(self._last().settings["prompt"]), self.wishes, self.count)
        elif name == "/info":
            _tell(
                [f"{key}: {value}" for key, value in self._last().settings.items() if value != ""]
            )
        elif name == "/open":
            open_in_viewer(self._last().path)

    def _last(self) -> "Finished":
        if self.last is None:
            raise usage_error("no picture has been drawn yet", "type what to draw")
        return self.last

    def _last_seed(self) -> str:
        return str(self._last().seed)

    def _with_options(self, line: str) -> tuple[str, Wishes, int]:
        """A prompt, and what the options behind it change for this line alone. SanaError for others than these."""
        prompt, options = split_options(line)
        wishes, count = self.wishes, self.count
        for typed, value in options:
            name = _ALIASES.get(typed, typed)
            if name == "/count":
                count = _count(value)
            elif name in SETTERS:
                meant = self._last_seed() if (name, value) == ("/seed", "last") else value
                wishes = replace(wishes, **self._parsed(name, meant, wishes))
            else:
                known = ", ".join(f"--{n[1:]}" for n in (*SETTERS, "/count"))
                raise OptionError(
                    f"--{name[1:]} is no option of a prompt here",
                    f"known: {known}; for the words themselves, write them without dashes",
                )
        if options:
            _check(wishes, self.order.checkpoint)
        return prompt, wishes, count

    def _set_count(self, value: str) -> None:
        if value:
            self.count = 1 if value == DEFAULT else _count(value)
        if not (value and self.reporter.quiet):
            _tell([f"count {self.count}"])

    def _tell_comment(self) -> None:
        """Say once why nothing is drawn."""
        if not self._told_comment:
            self._told_comment = True
            self.reporter.notice("lines that begin with # are comments, and are not drawn")

    def _draw(self, prompt: str, wishes: Wishes, count: int) -> None:
        live = LivePreview(self.seeing, self.reporter)
        self.order.watching, self.order.count = live.watching, count
        with self.reporter:
            for picture in self.order.next(replace(wishes, prompt=prompt)):
                self.last = picture
                with self.reporter.paused():
                    live.clear()
                    say(*summary(picture, quiet=self.reporter.quiet))
                    self.seeing.show(picture.path)

    def _set(self, name: str, value: str) -> None:
        if not value:
            _tell([f"{name[1:]} {self._now(name)}"])
            _check(self.wishes, self.order.checkpoint)
            return
        changes = self._parsed(name, value, self.wishes)
        wishes = replace(self.wishes, **changes)
        try:
            _check(wishes, self.order.checkpoint)
        except SanaError as error:
            # Of several files that have gone, one after the other must be let go.
            if value not in (OFF, DEFAULT) or self._can_draw():
                raise
            self.wishes = wishes
            self.reporter.notice(f"{name[1:]} {value}, but still: {in_commands(error.message)}")
            return
        changed = {key for key in changes if changes[key] != getattr(self.wishes, key)}
        self.wishes = wishes
        if not self.reporter.quiet:
            told = [n for n, s in SETTERS.items() if n == name or s.keys[0] in changed]
            _tell([f"{n[1:]} {self._now(n)}" for n in told])

    def _parsed(self, name: str, value: str, wishes: Wishes) -> dict[str, Any]:
        """What a value changes of the wishes."""
        setter = SETTERS[name]
        if value == DEFAULT:
            return {key: getattr(self.usual, key) for key in setter.keys}
        try:
            return setter.parse(value, wishes)
        except ValueError as error:
            raise usage_error(f"{name} cannot be {value!r}", f"it {error}") from error

    def _can_draw(self) -> bool:
        """Whether what is set is still there."""
        try:
            _check(self.wishes, self.order.checkpoint)
        except SanaError:
            return False
        return True

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
        return in_words(name, self.wishes, self._settings())

    def _settings(self) -> Settings:
        """What a prompt would be drawn with; without files, where one of them has gone."""
        checkpoint, wishes = self.order.checkpoint, _any_prompt(self.wishes)
        try:
            return resolve(wishes.request(checkpoint), checkpoint)
        except SanaError:
            bare = replace(wishes, image=None, strength=None, mask=None, loras=None)
            return resolve(bare.request(checkpoint), checkpoint)

    def _tell_settings(self) -> None:
        names = (*SETTERS, *SWITCHES)
        _tell(columns([("model", self.model), *((n[1:], self._now(n)) for n in names)]))
        _check(self.wishes, self.order.checkpoint)  # what has gone is told, too

    def _turn_to_model(self, name: str) -> None:
        if name:
            typed = Wishes(model=name)
            wishes = typed.over(self.wishes)
            self.order = self._opened(wishes)
            self.usual, self.wishes = typed.over(self.usual), wishes
        _tell([f"model {self.model}"])

    def _opened(self, wishes: Wishes) -> Order:
        with self.reporter:
            checkpoint = open_model(
                wishes, None, offline=self.offline, yes=self.yes, reporter=self.reporter
            )
        _check(wishes, checkpoint)
        return Order(
            wishes=wishes, checkpoint=checkpoint, count=self.count, overwrite=False, reporter=self.reporter,
            safety=self.safety,
        )  # fmt: skip


def _count(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value[:9]) <= _MOST:
        raise usage_error(
            f"/count cannot be {value!r}", f"it should be a whole number from 1 to {_MOST}"
        )
    return int(value)


def _check(wishes: Wishes, checkpoint: Checkpoint) -> None:
    """SanaError for settings that no prompt can be drawn with."""
    settings = resolve(_any_prompt(wishes).request(checkpoint), checkpoint)
    if settings.loras:
        from sana_cli.loading.load import check_loras

        check_loras(checkpoint, settings.loras)
    if wishes.output:
        output = local_path(wishes.output)
        folder = output.parent if is_pattern(output) else output
        if not folder.is_dir() and (is_pattern(output) or output.suffix.lower() != ".png"):
            raise no_folder(folder)
        one_name = output.suffix.lower() == ".png" and not output.is_dir()
        if one_name and (not is_pattern(output) or "{index" in wishes.output):
            raise usage_error(
                f"pictures of a session cannot all be called {wishes.output}",
                "name a folder, or a pattern with {slug} and {seed}",
            )


def _any_prompt(wishes: Wishes) -> Wishes:
    return replace(wishes, prompt="a prompt")


def _tell(lines: "Iterator[str] | list[str]") -> None:
    say(*lines, err=True)
