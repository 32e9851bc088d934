"""Values of an entry in a file of prompts, by key: names that are known, kinds of values, contradictions."""

import json
from typing import Any

import pytest

from sana_cli.config.generation import FIELDS, GenerationOptions
from sana_cli.request.prompt_entries import Entry, Place
from sana_cli.request.prompt_values import KEYS, BadValue, options_of, values_of


def entry(said: dict[str, Any], *, typed: bool = False) -> Entry:
    return Entry(place=Place(kind="line", number=1), said=said, is_typed=typed)


def values(**said: Any) -> dict[str, Any]:
    return values_of(entry({"prompt": "a cat", **said}))[0]


def typed(**said: str) -> dict[str, Any]:
    return values_of(entry({"prompt": "a cat", **said}, typed=True))[0]


def options(**said: Any) -> GenerationOptions:
    return options_of(values(**said))


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("Negative Prompt", "negative"), ("negative_prompt", "negative"), ("NEGATIVE-PROMPT", "negative"),
        ("cfg_scale", "guidance"), ("guidance_scale", "guidance"), ("CFG", "guidance"),
        (" steps ", "steps"), ("num_inference_steps", "steps"), ("num-inference-steps", "steps"),
    ],
)  # fmt: skip
def test_what_others_call_it(said: str, known: str) -> None:
    value = "rain" if known == "negative" else 3
    assert values(**{said: value}) == {"prompt": "a cat", known: value}


@pytest.mark.parametrize(("one", "other"), [("steps", "num_inference_steps"), ("Seed", "seed")])
def test_one_thing_said_twice(one: str, other: str) -> None:
    with pytest.raises(BadValue, match=f"twice, once as {other!r}"):
        values(**{one: 3, other: 4})


def test_null_says_nothing() -> None:
    """Of known keys, and once more beside one that says something."""
    assert values(steps=None, num_inference_steps=4, lora=None) == {"prompt": "a cat", "steps": 4}


@pytest.mark.parametrize(
    ("key", "value", "example"),
    [("guidance_interval", [0.2, 0.8], '"0.2-0.8"'), ("size", [512, 512], '"1024x768"'),
     ("pag", [2, 8], '2 or "2:4"'), ("aspect", 1.5, '"16:9"'), ("control", ["a.png"], '"sketch.png:0.7"'),
     ("lora", {"a": 1}, '"style.safetensors:0.8" or a list of such texts')],
)  # fmt: skip
def test_a_value_of_another_kind_comes_with_an_example(key: str, value: Any, example: str) -> None:
    with pytest.raises(BadValue) as caught:
        values(**{key: value})
    assert str(caught.value).endswith(f"{value!r}; write {example}")


@pytest.mark.parametrize("key", ["tag", "style", "image_id", "class", "prompt_id"])
def test_keys_of_others_are_listed(key: str) -> None:
    found, unknown = values_of(entry({"prompt": "a cat", key: [1]}))
    assert (found, unknown) == ({"prompt": "a cat"}, [key])


@pytest.mark.parametrize(
    ("key", "meant"), [("stesp", "steps"), ("Seeds", "seed"), ("wdith", "width"), ("loras", "lora")]
)
def test_keys_that_resemble_ours(key: str, meant: str) -> None:
    with pytest.raises(BadValue, match=f"unknown key {key!r}, did you mean {meant!r}"):
        values(**{key: 1})


@pytest.mark.parametrize(
    ("key", "option"), [("output", "--output"), ("Max Memory", "--max-memory")]
)
def test_keys_of_the_whole_batch(key: str, option: str) -> None:
    with pytest.raises(BadValue, match=f"which holds for all pictures: give {option}"):
        values(**{key: 1})


@pytest.mark.parametrize("said", [{}, {"prompt": None}, {"seed": 1}])
def test_no_prompt(said: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match='is no object with a "prompt"'):
        values_of(entry(said))
    with pytest.raises(BadValue, match="has no prompt"):
        values_of(entry({key: str(value) for key, value in said.items() if value}, typed=True))


def test_a_prompt_that_is_misspelled() -> None:
    with pytest.raises(BadValue, match="did you mean that by 'promt'"):
        values_of(entry({"promt": "a cat"}))


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "7"), ("seed", 1.5), ("seed", True), ("seed", [1]), ("steps", "many"), ("steps", True),
        ("enhance", 1), ("enhance", "yes"), ("negative", 3), ("guidance", "4"), ("size", 1.5), ("lora", 3),
        ("size", {}), ("id", 1.5), ("image", 3),
    ],
)  # fmt: skip
def test_kinds_of_values(key: str, value: Any) -> None:
    with pytest.raises(BadValue, match=f"has an unusable {key!r}: "):
        values(**{key: value})


def test_whole_numbers_as_data_frames_write_them() -> None:
    found = values(seed=3.0, steps=4.0, guidance=2.0, strength=1.0)
    assert [type(found[key]) for key in ("seed", "steps", "guidance", "strength")] == [
        int, int, float, float,
    ]  # fmt: skip


def test_any_seed() -> None:
    """Other programs write -1 for it."""
    assert values(seed=-1)["seed"] is None
    assert options(seed=-1).seed is None


@pytest.mark.parametrize("value", ["\\ud800", "a\\u0000b"])
@pytest.mark.parametrize("key", ["prompt", "negative", "lora", "id"])
def test_what_no_text_holds(key: str, value: str) -> None:
    text = json.loads(f'"{value}"')
    with pytest.raises(BadValue, match=f"has a {key!r} that is not valid text"):
        values(**{key: [text] if key == "lora" else text})


@pytest.mark.parametrize("value", ["", "x" * 201])
def test_ids_are_not_endless(value: str) -> None:
    with pytest.raises(BadValue, match=f"has an id of {len(value)} characters"):
        values(id=value)
    assert values(id="x" * 200)["id"] == "x" * 200
    assert values(id=7)["id"] == 7


def test_choices() -> None:
    assert values(scheduler="flow-euler")["scheduler"] == "flow-euler"
    with pytest.raises(BadValue, match="unknown scheduler 'euler', did you mean 'flow-euler'"):
        values(scheduler="euler")


# -- text ------------------------------------------------------------------------------------------


def test_numbers_in_text() -> None:
    found = typed(seed="3", steps="4.0", guidance="2", strength="0.5", id="7")
    assert found == {
        "prompt": "a cat", "seed": 3, "steps": 4, "guidance": 2, "strength": 0.5, "id": "7",
    }  # fmt: skip


@pytest.mark.parametrize("value", ["x", "", "1e999x", "0x10", "三"])
def test_text_that_is_no_number(value: str) -> None:
    with pytest.raises(BadValue, match="has an unusable 'steps'"):
        typed(steps=value)


@pytest.mark.parametrize("value", ["inf", "nan", "1e999"])
def test_numbers_that_are_no_whole_ones(value: str) -> None:
    with pytest.raises(BadValue, match="has an unusable 'seed'"):
        typed(seed=value)


@pytest.mark.parametrize(
    ("said", "value"),
    [("true", True), ("Yes", True), ("", True), ("1", True), ("NO", False), ("off", False), ("0", False)],
)  # fmt: skip
def test_switches_in_text(said: str, value: bool) -> None:
    assert typed(enhance=said)["enhance"] is value
    with pytest.raises(BadValue, match="has an unusable 'enhance'"):
        typed(enhance="maybe")


@pytest.mark.parametrize(("said", "known"), [("no-enhance", "enhance"), ("Exact", "bins")])
def test_switches_that_say_no(said: str, known: str) -> None:
    assert typed(**{said: ""})[known] is False


# -- options ---------------------------------------------------------------------------------------


def test_options_by_their_own_names() -> None:
    found = options(size="96x64", negative="rain", guidance=2, lora="a.safetensors:0.5")
    assert (found.width, found.height, found.negative_prompt) == (96, 64, "rain")
    assert (found.guidance_scale, found.loras) == (2, ("a.safetensors:0.5",))
    assert options(lora=["a", "b"]).loras == ("a", "b")
    assert options(size=64).width == options(size=64).height == 64


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"size": "64x64", "width": 64}, "has a size twice"),
        ({"size": "64x64", "aspect": "1:1"}, "has a size and an aspect"),
        ({"height": 64, "aspect": "1:1"}, "has a size and an aspect"),
        ({"size": "a lot"}, "has an unreadable size 'a lot'"),
        ({"lora": ["a", 3]}, "has an unusable 'lora'"),
    ],
)
def test_contradictions(said: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        options(**said)


@pytest.mark.parametrize("key", sorted(set(KEYS) - {"id", "size"}))
def test_every_key_reaches_an_option(key: str) -> None:
    """Of a value of its own kind, whatever it is called inside."""
    made = {str: "1:1" if key == "aspect" else "x", int: 3, float: 0.5, bool: True, list: ["x"]}
    kind = next(kind for kind in (bool, list, int, float, str) if kind in KEYS[key])
    choices = next(f.option.choices for name, f in FIELDS.items() if (f.option.line or name) == key)
    value: Any = next(iter(choices)).value if choices else made[kind]
    found = options(**{key: value})
    changed = [name for name in FIELDS if getattr(found, name) not in (None, "a cat")]
    assert changed == [name for name, f in FIELDS.items() if (f.option.line or name) == key]
