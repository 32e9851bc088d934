"""Read the values of an entry in a file of prompts, check them by key, and build the options of a picture. No torch."""

from typing import Any

from sana_cli.config.choices import parse_size
from sana_cli.config.generation import FIELDS, GenerationOptions
from sana_cli.config.other_values import did_you_mean_choice
from sana_cli.errors import SanaError
from sana_cli.request.options import is_text
from sana_cli.request.prompt_entries import Entry
from sana_cli.text import closest

# Keys of a line, and what their values are in JSON: the options' own, and what only files have.
KEYS: dict[str, tuple[type, ...]] = {
    "id": (str, int), "size": (str, int),
    **{field.option.line: field.json_types for field in FIELDS.values() if field.option.line},
    "lora": (str, list), "pag": (str, int, float),
}  # fmt: skip
_CHOICES = {f.option.line: f.option.choices for f in FIELDS.values() if f.option.choices}
_ALIASES = {  # what other programs call them
    "negative_prompt": "negative", "guidance_scale": "guidance", "cfg_scale": "guidance", "cfg": "guidance",
    "num_inference_steps": "steps", "aspect_ratio": "aspect",
}  # fmt: skip
# Our options that hold for all pictures of a batch.
_OF_THE_BATCH = tuple(
    field.word for field in FIELDS.values() if not field.option.line and field.option.flags
)
_LIKE_PROMPT = ("caption", "text", "description", "title")  # what data sets call theirs
_RESEMBLES = 0.72  # for `closest`: "seeds" and "stesp" do, "style" and "scene" do not
_TRUE, _FALSE = ("true", "1", "yes", "on", ""), ("false", "0", "no", "off")
_EXAMPLES = {
    "guidance_interval": '"0.2-0.8"', "size": '"1024x768"', "pag": '2 or "2:4"', "aspect": '"16:9"',
    "control": '"sketch.png:0.7"', "lora": '"style.safetensors:0.8" or a list of such texts',
}  # fmt: skip
_LONGEST_ID = 200  # characters


class BadValue(Exception):
    """A place that cannot be read; its text says why, after the name of the place."""


def values_of(entry: Entry) -> tuple[dict[str, Any], list[str]]:
    """Read an entry's values under their known keys, and list its unknown keys. null means that a key is not set.

    Raises BadValue for unusable values, and for a known key that is misspelled or in the wrong place.
    """
    values: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in entry.said.items():
        known, meant = (_known_typed if entry.is_typed else _known)(key, value)
        if known is None:
            unknown.append(key)
        elif meant is not None:
            if known in values:
                raise BadValue(f"says {known!r} twice, once as {key!r}")
            values[known] = _checked(known, meant, is_typed=entry.is_typed)
    if not isinstance(values.get("prompt"), str):
        raise _no_prompt(entry, unknown)
    for key in unknown:
        _judge_unknown(key)
    return values, unknown


def _no_prompt(entry: Entry, unknown: list[str]) -> BadValue:
    meant = next(
        (
            key
            for key in unknown
            if _plain(key) in _LIKE_PROMPT or _resembling(_plain(key)) == "prompt"
        ),
        None,
    )
    what = "has no prompt" if entry.is_typed else 'is no object with a "prompt"'
    return BadValue(what + (f", did you mean that by {meant!r}?" if meant else ""))


def _judge_unknown(key: str) -> None:
    plain = _plain(key)
    if plain in _OF_THE_BATCH:
        option = f"--{plain.replace('_', '-')}"
        raise BadValue(f"has a key {key!r}, which holds for all pictures: give {option}")
    if close := _resembling(plain):
        raise BadValue(f"has an unknown key {key!r}, did you mean {close!r}?")


def _plain(key: str) -> str:
    """A key as ours are written: "Negative Prompt" is negative_prompt."""
    return key.strip().casefold().replace("-", "_").replace(" ", "_")


def _known(key: str, value: object) -> tuple[str | None, Any]:
    known = _ALIASES.get(_plain(key), _plain(key))
    return (known if known in KEYS else None), value


def _known_typed(key: str, value: str) -> tuple[str | None, Any]:
    """The same for text, where switches are written --enhance, --no-enhance and --exact."""
    plain = _plain(key)
    if plain in ("no_enhance", "exact"):
        return {"no_enhance": "enhance", "exact": "bins"}[plain], "false"
    return _known(key, value)


def _resembling(key: str) -> str | None:
    close = closest(key, KEYS, cutoff=_RESEMBLES)
    # "image_id" is no misspelled image, it is something of its own
    return close if close and close not in key.split("_")[:-1] else None


def _checked(key: str, value: Any, *, is_typed: bool) -> Any:
    try:
        value = _converted(key, value) if is_typed else value
    except ValueError as error:
        raise _unusable(key, value) from error
    kinds = KEYS[key]
    if type(value) is float and int in kinds and value.is_integer():
        value = value if float in kinds else int(value)
    if type(value) not in kinds:
        raise _unusable(key, value)
    if (choices := _CHOICES.get(key)) and value not in list(choices):
        meant = did_you_mean_choice(value, list(choices))
        raise BadValue(f"has an unknown {key} {value!r}{meant}")
    if key == "seed" and value == -1:
        return None  # other programs' word for "any"
    texts = value if isinstance(value, list) else [value]
    # Escapes of JSON can say what no text holds: half a character, or NUL.
    if not all(is_text(text) for text in texts if isinstance(text, str)):
        raise BadValue(f"has a {key!r} that is not valid text")
    if key == "id" and not 0 < len(str(value)) <= _LONGEST_ID:
        raise BadValue(f"has an id of {len(str(value))} characters, {_LONGEST_ID} are the most")
    return value


def _unusable(key: str, value: Any) -> BadValue:
    """The error for a value of another kind, with an example where the kind is not obvious."""
    example = f"; write {_EXAMPLES[key]}" if key in _EXAMPLES else ""
    return BadValue(f"has an unusable {key!r}: {value!r}{example}")


def _converted(key: str, text: str) -> Any:
    """Text as the kind of value that a key has. ValueError for what is none."""
    kinds = KEYS[key]
    if bool in kinds:
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError(text)
        return text.lower() in _TRUE
    if str in kinds:
        return text
    return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)


def options_of(values: dict[str, Any]) -> GenerationOptions:
    """Build options from values. Raises BadValue if they contradict each other."""
    if (size := values.pop("size", None)) is not None:
        if "width" in values or "height" in values:
            raise BadValue("has a size twice: size, and width or height")
        try:
            values["width"], values["height"] = parse_size(str(size))
        except SanaError as error:
            raise BadValue(f"has an unreadable size {size!r}") from error
    if "aspect" in values and ("width" in values or "height" in values):
        raise BadValue("has a size and an aspect")
    if (lora := values.get("lora")) is not None:
        values["lora"] = (lora,) if isinstance(lora, str) else tuple(lora)
        if not all(isinstance(text, str) for text in values["lora"]):
            raise BadValue(f"has an unusable 'lora': {lora!r}")
    if "pag" in values:
        values["pag"] = str(values["pag"])
    names = {field.option.line or field.name: field.name for field in FIELDS.values()}
    return GenerationOptions(**{names[key]: value for key, value in values.items()})
