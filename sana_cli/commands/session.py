"""What the lines of `sana repl` do: a prompt is drawn, `/command` changes how. No torch until the first picture.

The model stays loaded, and a setting that was made holds until it is changed. A line that cannot be done raises a
`SanaError` and changes nothing.
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from sana_cli.checkpoint import Checkpoint, local_path
from sana_cli.commands.drawing import Order, open_model
from sana_cli.commands.report import summary
from sana_cli.errors import usage_error
from sana_cli.naming import is_pattern
from sana_cli.options import Scheduler, parse_size
from sana_cli.output import columns, printable
from sana_cli.request import resolve
from sana_cli.safety import SafetyCheck
from sana_cli.user_config import SETTINGS
from sana_cli.wishes import Wishes

if TYPE_CHECKING:
    from sana_cli.console import ConsoleReporter

DEFAULT = "default"  # the value that takes a setting back


@dataclass(frozen=True, slots=True, kw_only=True)
class Setter:
    """A command that changes one setting. `parse` gives the wishes that a value means."""

    argument: str
    help: str
    parse: Callable[[str], dict[str, Any]]
    keys: tuple[str, ...]  # of `Wishes`, which `default` takes back
    values: tuple[str, ...] = ()  # offered when Tab is pressed


def _number(key: str) -> Callable[[str], dict[str, Any]]:
    return lambda text: {key: SETTINGS[key].parse(text)}


def _seed(text: str) -> dict[str, Any]:
    if not text.isdecimal():
        raise ValueError(f"should be a whole number, or {DEFAULT} for a new one each time")
    return {"seed": int(text)}


def _size(text: str) -> dict[str, Any]:
    if ":" in text:
        return {"width": None, "height": None, "aspect": text}
    width, height = parse_size(text)
    return {"width": width, "height": height, "aspect": None}


def _scheduler(text: str) -> dict[str, Any]:
    if text not in list(Scheduler):
        raise ValueError(f"should be one of {', '.join(Scheduler)}")
    return {"scheduler": text}


SETTERS = {
    "/seed": Setter(argument="N", help="same seed, same picture", parse=_seed, keys=("seed",)),
    "/size": Setter(
        argument="WxH|W:H", help="in pixels, or only the shape",
        parse=_size, keys=("width", "height", "aspect"),
    ),
    "/steps": Setter(argument="N", help="denoising steps", parse=_number("steps"), keys=("steps",)),
    "/guidance": Setter(
        argument="X", help="how strictly to follow the prompt; 1: off",
        parse=_number("guidance"), keys=("guidance",),
    ),
    "/negative": Setter(
        argument="TEXT", help="what to keep out of the picture",
        parse=lambda text: {"negative": text}, keys=("negative",),
    ),
    "/scheduler": Setter(
        argument="|".join(Scheduler), help="sampler",
        parse=_scheduler, keys=("scheduler",), values=tuple(Scheduler),
    ),
    "/output": Setter(
        argument="FOLDER|PATTERN", help="where pictures go",
        parse=lambda text: {"output": text}, keys=("output",),
    ),
}  # fmt: skip
_OTHERS = {
    "/model": ("NAME", "draw with another model; none: which one it is"),
    "/settings": ("", "everything that is set"),
    "/help": ("", "this list"),
    "/quit": ("", "leave, as Ctrl-D does"),
}
COMMANDS = (*SETTERS, *_OTHERS)


class Session:
    """One sitting. `take` does what a line says."""

    def __init__(
        self,
        wishes: Wishes,
        *,
        offline: bool,
        safety: SafetyCheck | None,
        reporter: "ConsoleReporter",
    ) -> None:
        """SanaError for a model that cannot be opened, or settings that do not fit it."""
        self.offline, self.safety, self.reporter = offline, safety, reporter
        self.usual = wishes  # what `default` goes back to
        self.order = self._opened(wishes)
        self.wishes = wishes

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
        elif name == "/model":
            self._turn_to_model(value)
        elif name not in _OTHERS:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f", did you mean {close[0]}?" if close else ""
            raise usage_error(f"there is no command {name}{meant}", "/help lists them")
        elif name == "/help":
            _tell(_help())
        elif name == "/settings":
            _tell(columns([("model", self.model), *((n[1:], self._now(n)) for n in SETTERS)]))
        return name != "/quit"

    def _draw(self, prompt: str) -> None:
        with self.reporter:
            for picture in self.order.next(replace(self.wishes, prompt=prompt)):
                with self.reporter.paused():
                    typer.echo(summary(picture, quiet=self.reporter.quiet))

    def _set(self, name: str, value: str) -> None:
        setter = SETTERS[name]
        if not value:
            _tell([f"{name[1:]} {self._now(name)}"])
            return
        if value == DEFAULT:
            changes = {key: getattr(self.usual, key) for key in setter.keys}
        else:
            try:
                changes = setter.parse(value)
            except ValueError as error:
                raise usage_error(f"{name} cannot be {value!r}", f"it {error}") from error
        wishes = replace(self.wishes, **changes)
        _check(wishes, self.order.checkpoint)
        self.wishes = wishes
        if not self.reporter.quiet:
            _tell([f"{name[1:]} {self._now(name)}"])

    def _now(self, name: str) -> str:
        """The value of a setting, in words."""
        checkpoint = self.order.checkpoint
        settings = resolve(_any_prompt(self.wishes).request(checkpoint), checkpoint)
        match name:
            case "/seed":
                return "a new one each time" if self.wishes.seed is None else str(self.wishes.seed)
            case "/size":
                return f"{settings.width}x{settings.height}"
            case "/guidance":
                return f"{settings.guidance_scale:g}"
            case "/negative":
                return settings.negative_prompt or "-"
            case "/output":
                return self.wishes.output or "the working folder"
            case _:
                return str(getattr(settings, name[1:]))

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


def _check(wishes: Wishes, checkpoint: Checkpoint) -> None:
    """SanaError for settings that no prompt can be drawn with."""
    resolve(_any_prompt(wishes).request(checkpoint), checkpoint)
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
    rows += [(f"  {name} {argument}", text) for name, (argument, text) in _OTHERS.items()]
    yield from columns(rows)
    yield f"Without a value a command tells what is set; {DEFAULT} takes it back."
    yield "Ctrl-C stops the picture that is being drawn, Tab completes, Up recalls."


def _tell(lines: "Iterator[str] | list[str]") -> None:
    for line in lines:
        typer.echo(printable(line), err=True)
