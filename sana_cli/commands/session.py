"""What the lines of `sana repl` do: a prompt is drawn, `/command` changes how. No torch until the first picture.

The model stays loaded, and a setting that was made holds until it is changed. A line that cannot be done raises a
`SanaError` and changes nothing.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from sana_cli.checkpoint import Checkpoint, local_path
from sana_cli.commands.drawing import Order, open_model
from sana_cli.commands.report import summary
from sana_cli.commands.seeing import LivePreview, Seeing
from sana_cli.commands.setters import DEFAULT, OFF, ON, SETTERS
from sana_cli.errors import SanaError, usage_error
from sana_cli.naming import is_pattern
from sana_cli.output import columns
from sana_cli.request import Settings, resolve
from sana_cli.safety import SafetyCheck
from sana_cli.text import say
from sana_cli.user_config import SETTINGS
from sana_cli.wishes import Wishes

if TYPE_CHECKING:
    from sana_cli.console import ConsoleReporter

SWITCHES = {
    "/show": "show pictures in the terminal",
    "/preview": "show them while they are drawn, too",
}
SWITCH_VALUES = (ON, OFF, DEFAULT)
_OTHERS = {
    "/model": ("NAME", "draw with another model; none: which one it is"),
    "/settings": ("", "everything that is set"),
    "/help": ("", "this list"),
    "/quit": ("", "leave, as Ctrl-D does"),
}
COMMANDS = (*SETTERS, *SWITCHES, *_OTHERS)


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
        safety: SafetyCheck | None,
        reporter: "ConsoleReporter",
        looks: Looks,
    ) -> None:
        """SanaError for a model that cannot be opened, or settings that do not fit it."""
        self.offline, self.safety, self.reporter, self.looks = offline, safety, reporter, looks
        self.usual = wishes  # what `default` goes back to
        self.order = self._opened(wishes)
        self.wishes = wishes
        self.switched: dict[str, bool | None] = {"show": None, "preview": None}
        self.seeing = looks(show=None, preview=None)

    @property
    def model(self) -> str:
        return self.order.checkpoint.name

    def take(self, line: str) -> bool:
        """Do what a line says; False when it says to leave."""
        text = line.strip()
        if not text.startswith("/"):
            if text and not text.startswith("#"):
                self._draw(text)
            return True
        name, _, value = text.partition(" ")
        value = value.strip()
        if name in SETTERS:
            self._set(name, value)
        elif name in SWITCHES:
            self._switch(name, value)
        elif name == "/model":
            self._turn_to_model(value)
        elif name not in _OTHERS:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f", did you mean {close[0]}?" if close else ""
            raise usage_error(f"there is no command {name}{meant}", "/help lists them")
        elif name == "/help":
            _tell(_help())
        elif name == "/settings":
            self._tell_settings()
        return name != "/quit"

    def _draw(self, prompt: str) -> None:
        live = LivePreview(self.seeing, self.reporter)
        self.order.watching = live.watching
        with self.reporter:
            for picture in self.order.next(replace(self.wishes, prompt=prompt)):
                with self.reporter.paused():
                    live.clear()
                    say(*summary(picture, quiet=self.reporter.quiet))
                    self.seeing.show(picture.path)

    def _set(self, name: str, value: str) -> None:
        setter = SETTERS[name]
        if not value:
            _tell([f"{name[1:]} {self._now(name)}"])
            _check(self.wishes, self.order.checkpoint)
            return
        if value == DEFAULT:
            changes = {key: getattr(self.usual, key) for key in setter.keys}
        else:
            try:
                changes = setter.parse(value, self.wishes)
            except ValueError as error:
                raise usage_error(f"{name} cannot be {value!r}", f"it {error}") from error
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
        return _in_words(name, self.wishes, self._settings())

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
            checkpoint = open_model(wishes, None, offline=self.offline, reporter=self.reporter)
        _check(wishes, checkpoint)
        return Order(
            wishes=wishes, checkpoint=checkpoint, count=1, overwrite=False, reporter=self.reporter,
            safety=self.safety,
        )  # fmt: skip


def in_commands(text: str) -> str:
    """A message in the words of a session: options that are commands here are called so."""
    known = re.sub(
        r"--([a-z]+)\b(?!-)", lambda m: f"/{m[1]}" if f"/{m[1]}" in COMMANDS else m[0], text
    )
    return known.replace("--strength", "strength")


def _in_words(name: str, wishes: Wishes, settings: Settings) -> str:
    source = settings.source
    match name:
        case "/seed":
            return "a new one each time" if wishes.seed is None else str(wishes.seed)
        case "/size":
            return f"{settings.width}x{settings.height}"
        case "/guidance":
            return f"{settings.guidance_scale:g}"
        case "/negative":
            return settings.negative_prompt or OFF
        case "/image":
            told = f"{source.image.name} at strength {source.strength:g}" if source else None
            return told or wishes.image or OFF
        case "/mask":
            return wishes.mask or OFF
        case "/lora":
            return ", ".join(map(str, settings.loras or wishes.loras or ())) or OFF
        case "/output":
            return wishes.output or "the working folder"
        case _:
            return str(getattr(settings, name[1:]))


def _check(wishes: Wishes, checkpoint: Checkpoint) -> None:
    """SanaError for settings that no prompt can be drawn with."""
    settings = resolve(_any_prompt(wishes).request(checkpoint), checkpoint)
    if settings.loras:
        from sana_cli.loading import check_loras

        check_loras(checkpoint, settings.loras)
    if wishes.output:
        output = local_path(wishes.output)
        one_name = output.suffix.lower() == ".png" and not output.is_dir()
        if one_name and (not is_pattern(output) or "{index" in wishes.output):
            raise usage_error(
                f"pictures of a session cannot all be called {wishes.output}",
                "name a folder, or a pattern with {slug} and {seed}",
            )


def _any_prompt(wishes: Wishes) -> Wishes:
    return replace(wishes, prompt="a prompt")


def _help() -> Iterator[str]:
    yield "Type what to draw. A value that is set holds until it is changed:"
    rows = [(f"  {name} {s.argument}", s.help) for name, s in SETTERS.items()]
    rows += [(f"  {name} {ON}|{OFF}", text) for name, text in SWITCHES.items()]
    rows += [(f"  {name} {argument}", text) for name, (argument, text) in _OTHERS.items()]
    yield from columns(rows)
    yield f"Without a value a command tells what is set; {DEFAULT} takes it back."
    yield "Ctrl-C stops the picture that is being drawn, Tab completes, Up recalls."


def _tell(lines: "Iterator[str] | list[str]") -> None:
    say(*lines, err=True)
