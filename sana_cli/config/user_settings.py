"""Settings that hold for every command: environment variables and one TOML file. No torch.

A flag wins over its variable, the variable over the file, the file over the model's own default.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from quant.files import read_small_text
from sana_cli.config.choices import MAX_SIDE, is_drawable, parse_bytes, parse_size, size_of_aspect
from sana_cli.config.generation import FIELDS, Field, GenerationOptions
from sana_cli.config.other_values import did_you_mean_choice
from sana_cli.config.places import config_path
from sana_cli.errors import ExitCode, SanaError, require, usage_error
from sana_cli.text import did_you_mean, parsers_words, shell_command

AUTO = "auto"
LARGEST_CONFIG = 2**20  # bytes of the settings file
Value = str | int | float | bool
_SHAPES = (
    f"a size with sides of 32 to {MAX_SIDE} pixels in multiples of 32, such as 1024x768 or 512, "
    "or a shape such as 16:9"
)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
# Where files are; they cannot be in the file.
_NOT_SETTINGS = (
    "SANA_CONFIG", "SANA_CACHE", "SANA_MODELS", "SANA_PICTURES", "SANA_HISTORY", "SANA_RUNTIME", "SANA_SERVER", "SANA_API_KEY",
)  # fmt: skip


class Setting(NamedTuple):
    """A setting and its valid values."""

    kind: Literal["text", "whole number", "number", "true or false", "size", "shape"]
    help: str
    unset: str  # the value that is used without it, in words
    choices: tuple[str, ...] = ()
    limits: tuple[int, int] | None = None  # inclusive
    default: Value | None = None  # used without it, if all models use the same
    takes: str = ""  # the valid values in words, where `reads` finds them
    reads: Callable[[Any], object] | None = None  # SanaError for a value that no run can use

    def check(self, value: Any) -> Value:
        """Check and convert a value. Raises ValueError, which says what it should be."""
        if value == AUTO and self.takes_auto:
            return AUTO
        if self.kind == "number" and type(value) is int:
            try:
                value = float(value)
            except OverflowError as error:
                raise ValueError(f"should be {self.expected}") from error
        kinds: dict[str, type[Value]] = {
            "text": str, "whole number": int, "number": float, "true or false": bool, "size": str, "shape": str,
        }  # fmt: skip
        if type(value) is not kinds[self.kind] or value == "":
            raise ValueError(f"should be {self.expected}")
        checked: Value = value
        if self.choices and checked not in self.choices:
            meant = did_you_mean_choice(str(checked), self.choices)
            raise ValueError(f"should be {self.expected}{meant}")
        if self.reads is not None:
            try:
                self.reads(checked)
            except SanaError as error:
                raise ValueError(f"should be {self.expected}") from error
        low, high = self.limits or (0, 0)
        if self.limits and isinstance(checked, int | float) and not low <= checked <= high:
            raise ValueError(f"should be {self.expected}")
        return checked

    def parse(self, text: str) -> Value:
        """Read a typed value. Raises ValueError, which says what it should be."""
        text = text.strip()
        if text.lower() == AUTO and self.takes_auto:
            return AUTO
        if self.kind == "true or false" and text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        if self.kind in ("whole number", "number"):
            try:
                return self.check(int(text) if self.kind == "whole number" else float(text))
            except ValueError as error:
                raise ValueError(f"should be {self.expected}") from error
        return self.check(text)

    @property
    def expected(self) -> str:
        """The valid values, in words."""
        if self.takes:
            return self.takes
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.limits:
            return f"a {self.kind} from {self.limits[0]} to {self.limits[1]}"
        words = "some text" if self.kind == "text" else self.kind
        return words + (" or auto" if self.takes_auto else "")

    @property
    def takes_auto(self) -> bool:
        """True if the value `auto` restores the behaviour without the setting, even if it is set elsewhere."""
        return self.default is None and self.kind == "true or false"


def _read_shape(text: str) -> None:
    if ":" in text:
        size_of_aspect(text, 1024)
    else:
        require(is_drawable(*parse_size(text)), f"{text} cannot be drawn", f"use {_SHAPES}")


def _of_option(field: Field) -> Setting:
    option, kind = field.option, field.value
    assert kind != "texts"
    return Setting(
        kind=kind,
        help=option.setting,
        unset=option.unset,
        choices=tuple(choice.value for choice in option.choices) if option.choices else (),
        limits=option.limits,
        default=option.usual,
        takes=option.takes,
        reads=option.reads,
    )


SETTINGS: dict[str, Setting] = {
    **{field.word: _of_option(field) for field in FIELDS.values() if field.option.setting},
    "size": Setting(
        kind="shape", takes=_SHAPES, reads=_read_shape, help="size in pixels, or a shape",
        unset="the model's",
    ),
    "max_memory": Setting(
        kind="size", takes="a size with a unit, such as 4GiB", reads=parse_bytes, help="most memory that a picture may take: 4GiB",
        unset="what is free",
    ),
    "safety": Setting(
        kind="true or false", help="check prompts before they are drawn", unset="false", default=False
    ),
    "safety_model": Setting(
        kind="text", help="model that checks prompts: a folder or hub id",
        unset="google/shieldgemma-2b", default="google/shieldgemma-2b",
    ),
    "show": Setting(
        kind="true or false", help="show pictures in the terminal", unset="where it can"
    ),
    "preview": Setting(
        kind="true or false", help="also show pictures while they are drawn", unset="false", default=False
    ),
    "quiet": Setting(
        kind="true or false", help="no progress and no notices", unset="false", default=False
    ),
    "offline": Setting(
        kind="true or false", help="never touch the network", unset="false", default=False
    ),
    "remember": Setting(
        kind="true or false", help="list drawn pictures in `sana history`", unset="true", default=True
    ),
}  # fmt: skip
_OWN = (
    "safety",
    "safety_model",
    "show",
    "preview",
    "quiet",
    "offline",
    "remember",
)  # fields of `UserSettings`


class UserSettings(NamedTuple):
    """Every setting; None where the user set nothing. `values` holds them as they were read, `sources` where, in words."""

    options: GenerationOptions = GenerationOptions()  # what holds for pictures
    safety: bool | None = None
    safety_model: str | None = None
    show: bool | None = None
    preview: bool | None = None
    quiet: bool | None = None
    offline: bool | None = None
    remember: bool | None = None
    values: Mapping[str, Value] = MappingProxyType({})
    sources: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def of(cls, values: Mapping[str, Any], sources: Mapping[str, str]) -> Self:
        """From checked values by the settings' names, and where each is set."""
        said = {f.name: values[f.word] for f in FIELDS.values() if values.get(f.word) is not None}
        where = {name: sources[FIELDS[name].word] for name in said if FIELDS[name].word in sources}
        if (size := values.get("size")) is not None:
            if ":" in size:
                said["aspect"] = size
            else:
                said["width"], said["height"] = parse_size(size)
            where |= dict.fromkeys(("width", "height", "aspect"), sources["size"])
        own = {name: values.get(name) for name in _OWN}
        options = GenerationOptions(**said, sources=where)
        return cls(options=options, **own, values=values, sources=sources)

    def is_quiet(self, typed: bool | None) -> bool:
        """Resolve --quiet: the typed value, else the setting."""
        return bool(self.quiet if typed is None else typed)

    def is_checked(self, typed: bool | None) -> bool:
        """Resolve --safety: the typed value, else the setting."""
        return bool(self.safety if typed is None else typed)

    def check_source(self, typed: bool | None) -> str:
        """Name the setting that asks for --safety where nobody typed it; "" otherwise."""
        return self.sources.get("safety", "") if typed is None else ""

    def is_offline(self, typed: bool | None) -> bool:
        """Resolve --offline: the typed value, else the setting."""
        return bool(self.offline if typed is None else typed)


def preferences() -> UserSettings:
    """Read the user's settings from the environment and the file. Raises SanaError for invalid ones."""
    path = config_path()
    values: dict[str, Any] = dict(read_config_file())
    sources = dict.fromkeys(values, str(path))
    for key, setting in SETTINGS.items():
        name = variable(key)
        text = os.environ.get(name)
        if not text:
            continue
        try:
            values[key] = setting.parse(text)
        except ValueError as error:
            raise usage_error(
                f"{name} is {text!r}, and {error}", f"unset {name}, or give it such a value"
            ) from error
        sources[key] = name
    if values:
        import logging  # only where there are settings

        log = logging.getLogger("sana.settings")
        for key, value in values.items():
            log.info("%s = %r from %s", key, value, sources[key])
    values = {
        key: None if value == AUTO and SETTINGS[key].takes_auto else value
        for key, value in values.items()
    }
    return UserSettings.of(values, sources)


def variable(key: str) -> str:
    """The environment variable of a setting."""
    return (
        "SANA_CACHE_THRESHOLD" if key == "cache" else f"SANA_{key.upper()}"
    )  # SANA_CACHE is a folder


def unknown_variables() -> list[str]:
    """List variables that look like settings but are none, each in words."""
    known = [*map(variable, SETTINGS), *_NOT_SETTINGS]
    names = sorted(n for n in os.environ if n.startswith("SANA_") and n not in known)
    return [f"{name} is not a setting{did_you_mean(name, known)}" for name in names]


def read_config_file() -> dict[str, Value]:
    """Read the settings in the file; {} if there is no file. Raises SanaError for unknown settings."""
    path = config_path()
    try:
        text = read_small_text(path, LARGEST_CONFIG)
        import tomllib  # only where there are settings

        values = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise unreadable_toml(path, error) from error
    checked = {}
    for key, value in values.items():
        if key not in SETTINGS:
            raise _unusable(path, key, f"an unknown key {key!r}{did_you_mean(key, SETTINGS)}")
        try:
            checked[key] = SETTINGS[key].check(value)
        except ValueError as error:
            what = f"an unusable value for {key!r}: {value!r} {error}"
            raise _unusable(path, key, what) from error
    return checked


def find_setting(key: str) -> Setting:
    """Find a setting by its key. Raises SanaError for an unknown key, with the most similar one."""
    if key not in SETTINGS:
        raise usage_error(
            f"there is no setting {key!r}{did_you_mean(key, SETTINGS)}",
            f"settings: {', '.join(SETTINGS)}",
        )
    return SETTINGS[key]


def _unreadable(path: Path, error: OSError) -> SanaError:
    """The error for a pipe, a folder, a file that is too large or another user's: no edit can mend those."""
    if os.environ.get("SANA_CONFIG"):
        hint = "set SANA_CONFIG to a regular file that you may read, or unset it"
    else:
        above = next((n for n in ("XDG_CONFIG_HOME", "HOME") if os.environ.get(n)), "HOME")
        hint = f"look at its permissions and at {above}, or set SANA_CONFIG to another file"
    return SanaError(
        f"the settings in {path} cannot be read: {error.strerror or error}",
        hint=hint,
        code=ExitCode.ENVIRONMENT,
    )


def unreadable_toml(path: Path, error: Exception) -> SanaError:
    """The error for a file whose text is no TOML: no command can change a single value in it."""
    return usage_error(
        f"{path} is not readable TOML: {parsers_words(error)}",
        "correct it with `sana config edit`, or remove the file",
    )


def _unusable(path: Path, key: str, problem: str) -> SanaError:
    known = ", ".join(SETTINGS)
    remove = shell_command(("sana", "config", "unset", key))
    return usage_error(f"{path} has {problem}", f"edit it, or `{remove}`; known keys: {known}")
