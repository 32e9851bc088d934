"""Options are resolved once: every blank filled, the seed too, and what cannot be drawn refused."""

from typing import Any

import pytest

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import FIELDS, GenerationOptions, limits_of
from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.output_paths import Target
from sana_cli.request.params import resolve, resolve_all


def test_blanks_are_the_model_s(builtin: Checkpoint) -> None:
    params = resolve(GenerationOptions(prompt="a cat"), builtin)
    defaults = builtin.defaults
    assert (params.width, params.height) == (defaults.native_size, defaults.native_size)
    assert (params.steps, params.guidance_scale) == (defaults.steps, defaults.guidance_scale)
    assert (params.scheduler, params.flow_shift) == (defaults.scheduler, defaults.flow_shift)
    assert (params.negative_prompt, params.cache, params.guidance_interval) == ("", 0.0, (0.0, 1.0))


def test_what_is_said_wins(builtin: Checkpoint) -> None:
    options = GenerationOptions(
        prompt="a cat", negative_prompt="a dog", width=96, height=64, steps=3, guidance_scale=2,
        guidance_interval="0.2-0.9", cache=0.1, scheduler="flow-euler", seed=7,
    )  # fmt: skip
    params = resolve(options, builtin)
    assert (params.width, params.height, params.drawn_width, params.drawn_height) == (
        96,
        64,
        96,
        64,
    )
    assert (params.steps, params.guidance_scale, params.seed) == (3, 2.0, 7)
    assert (params.guidance_interval, params.cache, params.scheduler) == (
        (0.2, 0.9),
        0.1,
        "flow-euler",
    )
    assert params.uses_two_branches
    assert not resolve(GenerationOptions(prompt="x", guidance_scale=1), builtin).uses_two_branches


def test_seeds_follow_one_another_from_one_that_is_rolled_once(builtin: Checkpoint) -> None:
    given = resolve_all(GenerationOptions(prompt="a cat", seed=5, count=3), builtin)
    assert [params.seed for params in given] == [5, 6, 7]
    rolled = resolve_all(GenerationOptions(prompt="a cat", count=3), builtin)
    assert [params.seed - rolled[0].seed for params in rolled] == [0, 1, 2]
    again = resolve_all(GenerationOptions(prompt="a cat", count=3), builtin)
    assert again[0].seed != rolled[0].seed


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if f.option.limits])
def test_limits_are_those_of_the_table(builtin: Checkpoint, name: str) -> None:
    """What `sana config` and the help say is what is refused, and nothing else."""
    low, high = limits_of(name)

    def check(value: int) -> None:
        options = GenerationOptions(**{"prompt": "x", name: value})
        resolve(options, builtin)
        Target.of_options(options)

    for value in (low, high):
        check(value)
    for value in (low - 1, high + 1):
        with pytest.raises(SanaError) as caught:
            check(value)
        assert caught.value.code == ExitCode.USAGE


def test_a_shape_has_the_model_s_area(builtin: Checkpoint) -> None:
    params = resolve(GenerationOptions(prompt="a cat", aspect="2:1"), builtin)
    assert (params.width, params.height) == (352, 192)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \t"}, "the prompt is empty"),
        ({"prompt": "x" * 20_001}, "is too long"),
        ({"prompt": "\ud800"}, "is not valid text"),
        ({"negative_prompt": "x" * 20_001}, "is too long"),
        ({"steps": 0}, "cannot draw in 0 steps"),
        ({"steps": 10**30}, "steps 100000000000... of 31 digits is out of range"),
        ({"guidance_scale": float("nan")}, "guidance nan is out of range"),
        ({"guidance_scale": 10**400}, "guidance 100000000000... of 401 digits"),
        ({"cache": 1.5}, "--cache 1.5 is out of range"),
        ({"count": 0}, "cannot draw 0 pictures"),
        ({"seed": -5}, "seed -5 is out of range"),
        ({"seed": 2**64 - 1, "count": 2}, "seed 18446744073709551615 is out of range"),
        ({"width": 16}, "is out of range"),
        ({"width": 65}, "size 65x256 is not a multiple of 32"),
        ({"aspect": "9"}, "cannot use aspect ratio"),
        ({"guidance_interval": "0.9-0.2"}, "cannot use the interval"),
        ({"scheduler": "scm"}, "does not fit builtin"),
        ({"strength": 0.5}, "--strength needs a picture"),
        ({"image": "nowhere.png"}, "no such picture"),
    ],
)
def test_what_cannot_be_drawn(builtin: Checkpoint, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SanaError) as caught:
        resolve(GenerationOptions(**{"prompt": "a cat", **options}), builtin)
    assert message in caught.value.message
    assert caught.value.code == ExitCode.USAGE


def test_an_edited_value_of_a_picture_is_blamed_on_its_file(builtin: Checkpoint) -> None:
    said = GenerationOptions(prompt="a cat", pag="2:99", sources={"pag": "a.png"})
    with pytest.raises(SanaError, match=r"pag is set by a\.png"):
        resolve(said, builtin)
