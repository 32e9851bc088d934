"""What was asked for, wherever it was said: typed, in a file of prompts, in a picture, or in the user's settings. No torch."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from quant.installed import LIBRARIES, LIBRARY_PACKAGES, is_installed
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.lora_file import parse_lora
from sana_cli.config.choices import (
    Backend,
    Decode,
    Device,
    PlanName,
    Precision,
    Scheduler,
    decode_mode,
    parse_bytes,
    parse_interval,
    parse_size,
    size_of_aspect,
)
from sana_cli.config.user_settings import BUILTIN, Preferences
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.files import local_path
from sana_cli.images.file_names import is_pattern
from sana_cli.request.params import Request
from sana_cli.system.memory import free_bytes
from sana_cli.system.packages import pip_install
from sana_cli.system.precision import NamedDevice
from sana_cli.text import shortened

_LARGEST = 2**64  # of the numbers in a picture: seeds
FILES = ("image", "mask")  # names of files, of which a picture also tells the digest
# Said together or not at all: a size from one place and a shape from another make no sense.
_SIZE = ("width", "height", "aspect", "bins")
_TOGETHER = (_SIZE, ("decode", "tile"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of one place; None where it says nothing. `sources` names the place where nobody typed it."""

    prompt: str | None = None
    model: str | None = None
    output: str | None = None
    width: int | None = None
    height: int | None = None
    aspect: str | None = None
    bins: bool | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_interval: str | None = None
    cache: float | None = None
    negative: str | None = None
    seed: int | None = None
    image: str | None = None
    strength: float | None = None
    mask: str | None = None
    loras: tuple[str, ...] | None = None
    scheduler: str | None = None
    precision: str | None = None
    device: str | None = None
    backend: str | None = None
    enhance: bool | None = None
    decode: str | None = None
    tile: int | None = None
    max_memory: str | None = None
    plan: str | None = None
    branches_apart: bool | None = None  # said by pictures only
    prompt_cache: bool | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_preferences(cls, chosen: Preferences) -> Self:
        known = {f.name for f in fields(cls)}
        values = {key: getattr(chosen, key) for key in chosen.sources if key in known}
        sources = dict(chosen.sources)
        if chosen.size is not None:
            if ":" in chosen.size:
                values["aspect"] = chosen.size
            else:
                values["width"], values["height"] = parse_size(chosen.size)
            sources |= dict.fromkeys(("width", "height", "aspect"), sources["size"])
        return cls(**values, sources=sources)

    @classmethod
    def of_picture(cls, settings: Mapping[str, Any], name: str) -> Self:
        """What repeats a picture, from the settings in its file. SanaError for what makes no sense."""
        said = {key: _said(settings, key, kind, name) for key, kind in _IN_PICTURES.items()}
        width, height = _sides(settings.get("size"), name)
        mode, _, tile = str(settings.get("decode") or "").partition(" ")
        precision = str(settings.get("precision") or "auto").partition("+")[0]
        for key, value, known in (
            ("decode", mode, Decode), ("precision", precision, Precision),
            ("device", said["device"], Device), ("scheduler", said["scheduler"], Scheduler),
            ("backend", said["backend"], Backend), ("branches", said["branches"], ("apart",)),
        ):  # fmt: skip
            if value and value not in list(known):
                raise _senseless(name, key, value)
        interval = said["guidance_interval"] or "0-1"
        try:
            parse_interval(interval)
        except SanaError as error:
            raise _senseless(name, "guidance_interval", interval) from error
        if tile and not re.fullmatch(r"[0-9]{1,9}", tile):
            raise _senseless(name, "decode", settings["decode"])
        return cls(
            prompt=said["prompt"],
            negative=said["negative_prompt"] or "",  # a setting does not change what is repeated
            seed=said["seed"],
            image=said["image"],
            strength=said["strength"],
            mask=said["mask"],
            loras=_texts(settings, "loras", name),
            steps=said["steps"],
            guidance=said["guidance"],
            guidance_interval=interval,
            cache=said["cache"] or 0.0,
            scheduler=said["scheduler"],
            enhance=said["enhance"],
            model=said["model"],
            width=width,
            height=height,
            bins=settings.get("drawn_size") != settings.get("size"),
            precision=precision,
            device=said["device"],
            backend=said["backend"],
            decode=mode or "auto",
            tile=int(tile) if tile else None,
            branches_apart=said["branches"] == "apart",
            sources=dict.fromkeys(("model", "device", "precision", "loras", *FILES), name),
        )

    def over(self, other: Self) -> Self:
        """These wishes, and where they say nothing the others."""
        taken: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name != "sources"):
            group = next((group for group in _TOGETHER if name in group), (name,))
            if self.image is not None and name in other.sources and name in _SIZE:
                continue  # a picture to begin with has a size of its own, which no setting changes
            if all(getattr(self, each) is None for each in group):
                taken[name] = getattr(other, name)
        sources = {key: where for key, where in other.sources.items() if key in taken}
        return replace(self, **taken, sources={**sources, **self.sources})

    @property
    def model_or_builtin(self) -> str:
        return self.model or BUILTIN

    @contextmanager
    def naming_source_of(self, *names: str) -> Iterator[None]:
        """An error in the block also tells where such a value came from that nobody typed just now."""
        try:
            yield
        except SanaError as error:
            said = {self.sources[name]: name for name in names if name in self.sources}
            for source, name in said.items():
                error.message += f" ({name} is set by {source})"
            raise

    @contextmanager
    def naming_settings(self) -> Iterator[None]:
        """An error in the block that is about a setting, by its name, also tells where that was set."""
        try:
            yield
        except SanaError as error:
            set_by = {
                "size" if name in _SIZE else name: where for name, where in self.sources.items()
            }
            for name, source in set_by.items():
                about = re.search(rf"\b{name.replace('_', '.')}s?\b", error.message)
                if about and name != "output":
                    error.message += f" ({name} is set by {source})"
            raise

    def _require_sane_numbers(self) -> None:
        """Whole numbers of a file may have hundreds of digits, more than arithmetic with fractions takes."""
        for name in ("seed", "steps", "guidance", "cache", "strength", "width", "height", "tile"):
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) >= 2**64:
                digits = f"{str(value)[:12]}... of {len(str(abs(value)))} digits"
                raise usage_error(f"{name} {digits} is out of range", "use a smaller number")

    def request(
        self, checkpoint: Checkpoint, *, count: int = 1, overwrite: bool = False
    ) -> Request:
        """These wishes for one model. SanaError (usage) for values that cannot be read."""
        self._require_sane_numbers()
        width, height = self.width, self.height
        if self.aspect:
            width, height = size_of_aspect(self.aspect, checkpoint.defaults.native_size)
        backend = self.backend or "auto"
        if checkpoint.manifest is None and "backend" in self.sources:
            backend = "auto"  # a setting for quantized models; only a flag insists
        _require_library(backend)
        output = local_path(self.output) if self.output else None
        max_memory = parse_bytes(self.max_memory) if self.max_memory else None
        return Request(
            prompt=self.prompt or "",
            negative_prompt=self.negative or "",
            width=width,
            height=height,
            bins=bool(self.bins),
            steps=self.steps,
            guidance_scale=self.guidance,
            guidance_interval=parse_interval(self.guidance_interval or "0-1"),
            cache=self.cache or 0.0,
            scheduler=Scheduler(self.scheduler).value if self.scheduler else None,
            enhance=self.enhance,
            seed=self.seed,
            image=local_path(self.image) if self.image else None,
            strength=self.strength,
            mask=local_path(self.mask) if self.mask else None,
            loras=lora_paths(self.loras or ()),
            count=count,
            output=output,
            output_is_folder=(self.output or "").endswith(("/", os.sep)),
            output_is_pattern=output is not None and is_pattern(output),
            overwrite=overwrite,
            precision=Precision(self.precision or "auto").value,
            backend=Backend(backend).value,
            decode=decode_mode(Decode(self.decode) if self.decode else None, self.tile),
            tile=self.tile,
            plan=self.plan if self.plan and PlanName(self.plan) != PlanName.AUTO else None,
            branches_apart=bool(self.branches_apart),
            max_memory=max_memory,
            max_memory_source=self.sources.get("max_memory", ""),
            reading_room=_reading_room(max_memory) if self.image else None,
            prompt_cache=self.prompt_cache is not False,
        )


def _reading_room(max_memory: int | None) -> int | None:
    """Bytes for reading a picture: what is free, or what may be used."""
    known = [n for n in (max_memory, free_bytes(NamedDevice("cpu"))) if n is not None]
    return min(known, default=None)


def lora_paths(texts: Iterable[str]) -> tuple[tuple[Path, float], ...]:
    """What --lora names: files and scales. SanaError (usage) for what cannot be either."""
    return tuple((local_path(path), scale) for path, scale in map(parse_lora, texts))


# what a picture carries, and as which kind; sizes are read on their own
_IN_PICTURES: dict[str, tuple[type, ...]] = {
    "prompt": (str,), "negative_prompt": (str,), "seed": (int,), "steps": (int,),
    "guidance": (int, float), "guidance_interval": (str,), "cache": (int, float), "scheduler": (str,),
    "enhance": (bool,), "model": (str,), "device": (str,), "backend": (str,),
    "image": (str,), "strength": (int, float), "mask": (str,), "branches": (str,),
}  # fmt: skip


def _said(settings: Mapping[str, Any], key: str, kinds: tuple[type, ...], name: str) -> Any:
    value = settings.get(key)
    if value is not None and not (type(value) in kinds and _is_sensible(value)):
        raise _senseless(name, key, value)
    return value


def _is_sensible(value: str | float | bool) -> bool:
    """Whether a value can be one at all: JSON holds numbers that no float can, and texts that no file can be called."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
    return abs(value) <= _LARGEST  # neither NaN nor infinite


def _texts(settings: Mapping[str, Any], key: str, name: str) -> tuple[str, ...] | None:
    values = settings.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(
        isinstance(value, str) and _is_sensible(value) for value in values
    ):
        raise _senseless(name, key, values)
    return tuple(values)


def _sides(size: object, name: str) -> tuple[int, int]:
    try:
        return parse_size(str(size))
    except SanaError as error:
        raise _senseless(name, "size", size) from error


def _senseless(name: str, key: str, value: object) -> SanaError:
    shown = shortened(repr(value), 60)
    return SanaError(
        f"{name} carries {key} = {shown}, which makes no sense",
        hint="another program has changed it; give the settings yourself",
        code=ExitCode.USAGE,
    )


def _require_library(backend: str) -> None:
    """Kernels that were asked for must be there: others would draw the picture in silence."""
    module = LIBRARIES.get(backend)
    if module is not None and not is_installed(module):
        raise SanaError(
            f"--backend {backend} needs a library that is not installed here",
            hint=f"{pip_install(LIBRARY_PACKAGES[backend])}, or omit --backend",
            code=ExitCode.ENVIRONMENT,
        )
