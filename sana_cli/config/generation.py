"""`GenerationOptions`: what one place says about a picture, and the one table of all options.

A field and its `Option` are all that an option is: its flag, its key in pictures and prompt files, its limits, its
setting, its command of `sana repl`. Commands, prompt files, pictures, settings, `sana repl` and `SanaPipeline` read
this table; what an option does is `request/params.py`'s to say. No torch.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from numbers import Integral, Real
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from sana_cli.config.choices import (
    BLENDED_TILE,
    EXACT_TILE,
    HED_TYPES,
    MAX_PROMPT,
    MOST_LAYERS,
    Backend,
    ControlOrder,
    ControlType,
    Decode,
    Device,
    PictureFormat,
    PlanName,
    Precision,
    Scheduler,
    parse_pag,
    require_length,
    require_strength,
)
from sana_cli.errors import SanaError, usage_error
from sana_cli.text import did_you_mean, one_line, shortened

BUILTIN = "builtin"
Value = Literal["text", "whole number", "number", "true or false", "texts"]
_JSON: dict[Value, tuple[type, ...]] = {
    "text": (str,), "whole number": (int,), "number": (int, float), "true or false": (bool,), "texts": (list,),
}  # fmt: skip


class Option(NamedTuple):
    """Name one field of `GenerationOptions` in every place. A place that has no name for it cannot set it."""

    flags: tuple[str, ...] = ()  # of `sana generate`; (): none
    metavar: str | None = None
    help: str = ""  # of the flag, with its default
    choices: type[StrEnum] | None = None
    limits: tuple[int, int] | None = None  # inclusive
    picture: str = ""  # key in a picture's settings
    line: str = ""  # key in a file of prompts
    setting: str = ""  # help of `sana config`, where it can be set
    unset: str = "the model's"  # what a setting that is not made means, in words
    usual: str | int | float | None = None  # the same as a value, where it is one for every model
    takes: str = ""  # the valid values in words, where `reads` finds them
    reads: Callable[[Any], object] | None = (
        None  # SanaError for a value that no model can draw with
    )
    sweep: bool = False  # several values may be given: 8,14,20
    repl: str = ""  # help of the command in `sana repl`, where a plain value sets it


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """The options of one place; None where it says nothing. `sources` names the place where nobody typed it."""

    prompt: Annotated[str | None, Option(picture="prompt", line="prompt")] = None
    template: Annotated[str | None, Option(picture="template")] = None  # said by pictures only
    wildcards: Annotated[
        bool | None,
        Option(
            flags=("--wildcards/--no-wildcards",), line="wildcards",
            help="Choose among alternatives in prompts by the seed: {red|green}, {2$$a|b|c}, __animals__ [default: your setting, else off]",
            setting="make choices of {a|b} and __name__ in prompts", unset="false", usual=False,
        ),
    ] = None  # fmt: skip
    wildcards_folder: Annotated[
        str | None,
        Option(
            flags=("--wildcards-folder",), metavar="FOLDER",
            help="Folder of text files: __animals__ becomes a line of animals.txt; implies --wildcards [default: your setting, else ./wildcards]",
            setting="folder of text files for __name__ in prompts", unset="./wildcards",
        ),
    ] = None  # fmt: skip
    model: Annotated[
        str | None,
        Option(
            flags=("--model", "-m"), metavar="NAME|DIR", picture="model", sweep=True,
            help="A known name (sana-0.6b), a hub id, a folder or a .pth file "
            "[default: your setting, else the built-in]", setting="model used when --model is not given", unset=BUILTIN, usual=BUILTIN),
    ] = None  # fmt: skip
    output: Annotated[
        str | None,
        Option(
            flags=("--output", "-o"), metavar="PATH",
            help="A .png, .jpg or .webp file, a folder (created if it ends in a slash: new/), or a pattern, whose folders "
            "are created: {index}-{slug}-{seed}.png, {id} with --prompts [default: your setting, else this folder]",
            setting="folder for pictures, or a pattern", unset="the working folder",
        ),
    ] = None  # fmt: skip
    format: Annotated[
        str | None,
        Option(
            flags=("--format",), choices=PictureFormat,
            help="Format of pictures in a folder; a file name in --output has its own [default: png]",
            setting="format of pictures in a folder", unset="png", usual="png", repl="format of pictures",
        ),
    ] = None  # fmt: skip
    quality: Annotated[
        int | None,
        Option(
            flags=("--quality",), limits=(1, 100), picture="quality",
            metavar="N", help="Quality of JPEG and WebP, 1 to 100; WebP with 100 is lossless [default: 95, WebP 100]",
            setting="quality of JPEG and WebP files", unset="95, WebP 100", repl="quality of JPEG and WebP files",
        ),
    ] = None  # fmt: skip
    width: Annotated[
        int | None,
        Option(flags=("--width", "-W"), metavar="PIXELS", help="A multiple of 32.", line="width"),
    ] = None
    height: Annotated[
        int | None,
        Option(flags=("--height", "-H"), metavar="PIXELS", help="A multiple of 32.", line="height"),
    ] = None
    aspect: Annotated[
        str | None,
        Option(
            flags=("--aspect",), metavar="W:H", line="aspect",
            help="Shape alone, such as 16:9, at the model's native number of pixels.",
        ),
    ] = None  # fmt: skip
    steps: Annotated[
        int | None,
        Option(
            flags=("--steps",), metavar="N", help="Denoising steps; several values draw each: 8,14,20 [default: the model's]",
            limits=(1, 1000), sweep=True,
            picture="steps", line="steps", setting="denoising steps", repl="denoising steps",
        ),
    ] = None  # fmt: skip
    guidance_scale: Annotated[
        float | None,
        Option(
            flags=("--guidance",), metavar="X", limits=(0, 100), picture="guidance", line="guidance", sweep=True,
            help="How strictly to follow the prompt; 1: off [default: the model's]",
            setting="how strictly to follow the prompt", repl="how strictly to follow the prompt; 1: off",
        ),
    ] = None  # fmt: skip
    guidance_interval: Annotated[
        str | None,
        Option(
            flags=("--guidance-interval",), metavar="LOW-HIGH", picture="guidance_interval", sweep=True,
            line="guidance_interval",
            help="Guide only between these noise levels (1: pure noise), such as 0.2-0.9; other steps take half the work [default: 0-1]",
        ),
    ] = None  # fmt: skip
    pag: Annotated[
        str | None,
        Option(
            flags=("--pag",), metavar="SCALE[:LAYER]", picture="pag", line="pag", sweep=True,
            help="Perturbed-attention guidance (try 2): firmer shapes, each step takes about a quarter longer [default: 0, off]",
            setting="perturbed-attention guidance, SCALE or SCALE:LAYER", unset="0", usual="0",
            repl="perturbed-attention guidance: 2 or 2:4; 0: off",
            takes='a scale from 0 to 100, or SCALE:LAYER, such as "2" or "2:4"',
            reads=lambda text: parse_pag(text, MOST_LAYERS),
        ),
    ] = None  # fmt: skip
    cache: Annotated[
        float | None,
        Option(
            flags=("--cache",), metavar="THRESHOLD", limits=(0, 1), picture="cache", line="cache", sweep=True,
            help="Reuse earlier results while the first block changes by less than THRESHOLD (try 0.1): "
            "faster, picture differs slightly [default: 0, off]",
            setting="threshold for reusing earlier results; 0: off", unset="0", usual=0.0,
            repl="threshold for reusing earlier results: 0.1; 0: off",
        ),
    ] = None  # fmt: skip
    negative_prompt: Annotated[
        str | None,
        Option(
            flags=("--negative",), metavar="TEXT", help="What to keep out of the picture.",
            picture="negative_prompt", line="negative",
            setting="what to keep out of pictures", unset="nothing",
            takes=f"a text of at most {MAX_PROMPT:,} characters", reads=require_length,
        ),
    ] = None  # fmt: skip
    seed: Annotated[
        int | None,
        Option(
            flags=("--seed",), metavar="N|random", limits=(0, 2**64 - 1), picture="seed", line="seed", sweep=True,
            help="Same seed, same picture; 1-4 draws four; random: a new one, also with --from [default: random]",
            setting="same seed, same picture", unset="random",
        ),
    ] = None  # fmt: skip
    image: Annotated[
        str | None,
        Option(
            flags=("--image",), metavar="FILE", picture="image", line="image",
            help="Picture to start from instead of noise [default size: the picture's]",
        ),
    ] = None  # fmt: skip
    strength: Annotated[
        float | None,
        Option(
            flags=("--strength",), metavar="X", picture="strength", line="strength", sweep=True,
            help="How much to redraw: near 0 keeps the picture, 1 ignores it "
            "[default: 0.6; Sprint: 0.5; with --mask: 1]",
        ),
    ] = None  # fmt: skip
    mask: Annotated[
        str | None,
        Option(
            flags=("--mask",), metavar="FILE", picture="mask", line="mask",
            help="Redraw only the white parts of this picture; the rest stays identical.",
        ),
    ] = None  # fmt: skip
    upscale: Annotated[
        float | None,
        Option(
            flags=("--upscale",), metavar="FACTOR", limits=(1, 8), picture="upscale", line="upscale", sweep=True,
            help="Draw, enlarge by FACTOR and redraw the details; with --image: enlarge that picture [default: 1, off]",
            setting="enlarge pictures by this factor and redraw them; 1: off", unset="1", usual=1.0,
            repl="enlarge by this factor and redraw: 2; 1: off",
        ),
    ] = None  # fmt: skip
    upscale_strength: Annotated[
        float | None,
        Option(
            flags=("--upscale-strength",), metavar="X", picture="upscale_strength", line="upscale_strength", sweep=True,
            help="How much to redraw after --upscale: near 0 keeps the enlarged picture [default: 0.35]",
            setting="how much to redraw after enlarging, above 0 to 1", unset="0.35", usual=0.35,
            repl="how much to redraw after enlarging, above 0 to 1",
            takes="a number above 0, and at most 1",
            reads=lambda strength: require_strength(strength, "--upscale-strength"),
        ),
    ] = None  # fmt: skip
    control: Annotated[
        str | None,
        Option(
            flags=("--control",), metavar="FILE[:SCALE]", picture="control", line="control",
            help="Picture whose lines the drawing follows; for models with a ControlNet [default size: the picture's]",
        ),
    ] = None  # fmt: skip
    control_scale: Annotated[
        float | None,
        Option(
            flags=("--control-scale",), picture="control_scale", line="control_scale",
            metavar="X", help="How strongly to follow --control; 0: not at all [default: 1]",
        ),
    ] = None  # fmt: skip
    control_type: Annotated[
        str | None,
        Option(
            flags=("--control-type",), choices=ControlType, picture="control_type", line="control_type",
            help="How to find lines in the picture of --control; none: it already holds white lines on black [default: none]",
        ),
    ] = None  # fmt: skip
    control_hed: Annotated[
        str | None,
        Option(
            flags=("--control-hed",), metavar="FILE",
            help="Weights that find lines for --control-type hed and scribble: ControlNetHED.pth [default: the file of `sana pull hed`]",
            setting="weights that find lines: ControlNetHED.pth", unset="from `sana pull hed`",
        ),
    ] = None  # fmt: skip
    control_order: Annotated[
        str | None,
        Option(
            flags=("--control-order",), choices=ControlOrder, picture="control_order", line="control_order",
            help="Run the ControlNet as it was trained, or as diffusers does [default: as its files say]",
        ),
    ] = None  # fmt: skip
    loras: Annotated[
        tuple[str, ...] | None,
        Option(
            flags=("--lora",), metavar="FILE[:SCALE]", picture="loras", line="lora", sweep=True,
            help="LoRA file for this model (.safetensors); repeat for several, they add up [default scale: 1]",
        ),
    ] = None  # fmt: skip
    count: Annotated[
        int | None,
        Option(
            flags=("--count", "-n"), metavar="N", limits=(1, 10_000),
            help="Number of pictures, with seeds SEED, SEED+1, ... [default: your setting, else 1]",
            setting="pictures for each prompt", unset="1", usual=1,
        ),
    ] = None  # fmt: skip
    scheduler: Annotated[
        str | None,
        Option(
            flags=("--scheduler",), choices=Scheduler, sweep=True, help="Sampler [default: the model's]",
            picture="scheduler", line="scheduler", setting="sampler", repl="sampler",
        ),
    ] = None  # fmt: skip
    precision: Annotated[
        str | None,
        Option(
            flags=("--precision",), choices=Precision, sweep=True,
            help="Compute precision [default: auto, which follows how the model was trained]",
            setting="compute precision of the transformer", unset="auto", usual="auto",
        ),
    ] = None  # fmt: skip
    device: Annotated[
        str | None,
        Option(
            flags=("--device",), choices=Device, help="Where to run [default: auto]", picture="device",
            setting="where to run", unset="auto", usual="auto",
        ),
    ] = None  # fmt: skip
    backend: Annotated[
        str | None,
        Option(
            flags=("--backend",), choices=Backend, picture="backend", sweep=True,
            help="Kernels for a quantized model [default: auto, the fastest with right results]",
            setting="kernels of quantized models", unset="auto", usual="auto",
        ),
    ] = None  # fmt: skip
    enhance: Annotated[
        bool | None,
        Option(
            flags=("--enhance/--no-enhance",), picture="enhance", line="enhance",
            help="Put Sana's instruction to its text encoder before the prompt [default: as the model was published]",
            setting="put Sana's instruction to its text encoder before prompts", unset="as published",
        ),
    ] = None  # fmt: skip
    bins: Annotated[
        bool | None,
        Option(
            flags=("--bins/--exact",), line="bins",
            help="Take any size: draw at the nearest one the model was trained on, then resize [default: exact]",
        ),
    ] = None  # fmt: skip
    decoder: Annotated[
        str | None,
        Option(
            flags=("--decoder",), sweep=True, metavar="full|lite|tiny|DIR", picture="decoder", line="decoder",
            help="Decoder that turns latents into pixels: the model's own (full), a faster one (lite, tiny), a folder, "
            "hub id or .pth file [default: full]",
            setting="decoder that turns latents into pixels", unset="full", usual="full",
            repl="decoder that turns latents into pixels: full, lite, tiny, a folder",
        ),
    ] = None  # fmt: skip
    decode: Annotated[
        str | None,
        Option(
            flags=("--decode",), choices=Decode, help="How to decode: whole, in exact tiles (less memory, no seams), or in blended tiles as diffusers does "
            "[default: auto, whole if it fits]",
            setting="how latents become pixels", unset="auto", usual="auto",
        ),
    ] = None  # fmt: skip
    tile: Annotated[
        int | None,
        Option(
            flags=("--tile",), metavar="PIXELS",
            help=f"Side of the tiles, a multiple of 32; implies exact tiles "
            f"[default: {EXACT_TILE}; blended: {BLENDED_TILE}]",
        ),
    ] = None  # fmt: skip
    max_memory: Annotated[
        str | None,
        Option(
            flags=("--max-memory",), metavar="SIZE",
            help="Limit memory: 4GiB, 800MiB [default: free memory minus 10 %]",
        ),
    ] = None  # fmt: skip
    plan: Annotated[
        str | None,
        Option(
            flags=("--plan",), choices=PlanName,
            help="Which parts stay in memory [default: auto, the fastest plan that fits]",
            setting="which parts stay in memory", unset="auto", usual="auto",
        ),
    ] = None  # fmt: skip
    branches_apart: Annotated[bool | None, Option()] = None  # said by pictures only
    prompt_cache: Annotated[
        bool | None,
        Option(
            flags=("--prompt-cache/--no-prompt-cache",),
            help="Keep encoded prompts on disk, so that a repeated one needs no text encoder [default: prompt-cache]",
        ),
    ] = None  # fmt: skip
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """From what a program says, by the fields' names. SanaError (usage) for a name that is none, or another type."""
        for name in values:
            if name not in FIELDS:
                raise unknown_option(name, FIELDS)
        return cls(**{name: _typed(FIELDS[name], value) for name, value in values.items()})

    def over(self, other: Self) -> Self:
        """These options, and where they say nothing the others."""
        taken: dict[str, Any] = {}
        for name in FIELDS:
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
        """Add to an error in the block where a value came from that nobody typed just now."""
        try:
            yield
        except SanaError as error:
            said = {self.sources[name]: name for name in names if name in self.sources}
            for source, name in said.items():
                _name_source(error, name, source)
            raise

    @contextmanager
    def naming_settings(self) -> Iterator[None]:
        """Add to an error in the block about a setting where that setting came from.

        Words within the names of files and tensors are no settings. Models and outputs are named where they are opened
        (`naming_source_of`): errors about other things speak of them, too.
        """
        try:
            yield
        except SanaError as error:
            set_by = {
                "size" if name in _SIZE else FIELDS[name].word: where
                for name, where in self.sources.items()
                if name in FIELDS
            }
            for name, source in set_by.items():
                word = rf"(?<![\w./-])(?:--)?{name.replace('_', '[-_ ]')}s?(?![\w/]|[.-]\w)"
                if name not in ("model", "output") and re.search(word, error.message):
                    _name_source(error, name, source)
            raise


def _name_source(error: SanaError, name: str, source: str) -> None:
    """Add where a value came from, once: a block that names sources may be within another."""
    where = f" ({name} is set by {source})"
    if where not in error.message:
        error.message += where


def uses_wildcards(options: GenerationOptions) -> bool:
    """Check whether braces and `__names__` of the prompt are choices; in other prompts they are words."""
    if options.wildcards is None:
        return options.wildcards_folder is not None and "wildcards_folder" not in options.sources
    return options.wildcards


def uses_hed(options: GenerationOptions) -> bool:
    """Check whether the HED network finds the lines of a control picture."""
    return options.control is not None and options.control_type in HED_TYPES


# Said together or not at all: a size from one place and a shape from another make no sense.
_SIZE = ("width", "height", "aspect", "bins")
_TOGETHER = (_SIZE, ("decode", "tile"))
FILES = ("image", "mask", "control")  # names of files, of which a picture also carries the digest


class Field(NamedTuple):
    """A field of `GenerationOptions`: its name, the kind of its values, and its `Option`."""

    name: str
    value: Value
    option: Option

    @property
    def word(self) -> str:
        """Return the name that users know: the first flag without dashes, as in settings and messages."""
        flag = self.option.flags[0].partition("/")[0] if self.option.flags else self.name
        return flag.removeprefix("--").replace("-", "_")

    @property
    def takes_numbers(self) -> bool:
        """Check whether a program may say its text as a number: a scale without a layer, bytes."""
        return self.name in ("pag", "max_memory")

    @property
    def json_types(self) -> tuple[type, ...]:
        """Return the type of its values in a prompt file or a picture."""
        return _JSON[self.value]


@cache
def _table() -> dict[str, Field]:
    kinds: dict[Any, Value] = {
        str: "text", int: "whole number", float: "number", bool: "true or false", tuple[str, ...]: "texts",
    }  # fmt: skip
    table = {}
    for name, hint in GenerationOptions.__annotations__.items():
        if name != "sources":
            annotated, option = get_args(hint)
            table[name] = Field(name=name, value=kinds[get_args(annotated)[0]], option=option)
    return table


FIELDS: Mapping[str, Field] = _table()
# Each spelling of a flag, -m as well as --model, and both sides of a switch.
FLAGS: Mapping[str, Field] = {
    flag: field
    for field in FIELDS.values()
    for flags in field.option.flags
    for flag in flags.split("/")
}


_WANTED: Mapping[Value, tuple[type, str]] = {  # of a program; numbers may be numpy's
    "text": (str, "text"), "whole number": (Integral, "a whole number"), "number": (Real, "a number"),
    "true or false": (bool, "True or False"), "texts": (tuple, "a list of texts"),
}  # fmt: skip


def _typed(field: Field, value: Any) -> Any:
    """A value of a program as its option holds it. SanaError where it is of another type."""
    if value is None:
        return None
    kind, _ = _WANTED[field.value]
    if field.name in FILES:
        fits = isinstance(value, str | PathLike) or hasattr(value, "getbands")  # Pillow's
    elif field.value == "texts":
        texts = [value] if isinstance(value, str | PathLike) else value
        fits = isinstance(texts, tuple | list) and all(isinstance(t, str | PathLike) for t in texts)
        value = tuple(map(str, texts)) if fits else value
    else:
        is_number = field.takes_numbers and isinstance(value, Real) and not isinstance(value, bool)
        value = str(value) if is_number or isinstance(value, PathLike) else value
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    choices = field.option.choices
    if not fits or (choices and value not in list(choices)):
        raise wrong_value(field, value)
    if kind is Integral:
        return int(value)
    return float(value) if kind is Real else value


def wrong_value(field: Field, value: object) -> SanaError:
    """The error for a value of a program that an option cannot have."""
    _, words = _WANTED[field.value]
    if field.name in FILES:
        words = "a path or a PIL image"
    elif field.option.choices:
        words = f"one of {', '.join(field.option.choices)}"
    elif field.takes_numbers:
        words += " or a number"
    elif field.value == "texts":
        words += f", each {field.option.metavar}"
    said = shortened(one_line(repr(value)))
    return usage_error(f"{field.name} cannot be {said}", f"it should be {words}")


def unknown_option(name: str, known: Iterable[str]) -> SanaError:
    """The error for a name that is none of the known ones of a program; it may be the command's."""
    known = list(known)
    flags = {field.word: field.name for field in FIELDS.values() if field.name in known}
    if "width" in known:
        flags["size"] = "width and height"
    if name in flags:
        return usage_error(f"there is no option {name!r}", f"give {flags[name]}")
    hint = f"known: {', '.join(known)}"
    return usage_error(f"there is no option {name!r}{did_you_mean(name, known)}", hint)


def limits_of(name: str) -> tuple[int, int]:
    """Return the smallest and the largest value that an option may have."""
    limits = FIELDS[name].option.limits
    assert limits is not None, f"{name} has no limits"
    return limits
