"""Axes of a sweep: how values are read, in which order pictures are drawn, and where they are on a sheet."""

import re
from pathlib import Path
from typing import Any

import pytest

from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.sweep import AXES, Axis, Sweep, axis_of, with_one_seed


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("steps", "8,14,20", (8, 14, 20)),
        ("steps", "1-3, 7,2", (1, 2, 3, 7)),
        ("seed", "1-4", (1, 2, 3, 4)),
        ("guidance_scale", "3,4.5", (3.0, 4.5)),
        ("scheduler", "flow-dpm,flow-euler", ("flow-dpm", "flow-euler")),
        ("model", "builtin,builtin-w8a8", ("builtin", "builtin-w8a8")),
        ("loras", "none,a.safetensors:0.5", ((), ("a.safetensors:0.5",))),
        ("pag", "0,2,3:1", ("0", "2", "3:1")),
        ("decoder", "full,tiny", ("full", "tiny")),
        ("guidance_interval", "0-1,0.2-0.8", ("0-1", "0.2-0.8")),
    ],
)
def test_values(name: str, text: str, values: tuple[Any, ...]) -> None:
    axis = axis_of(name, text)
    assert axis is not None
    assert axis.values == values


@pytest.mark.parametrize(
    ("name", "text"),
    [("steps", "8"), ("seed", "-1"), ("seed", "random"), ("guidance_scale", "3"), ("model", "a")],
)
def test_one_value_is_no_axis(name: str, text: str) -> None:
    assert axis_of(name, text) is None


def test_a_name_with_a_comma_that_is_there_is_one_value(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert axis_of("model", str(tmp_path / "a,b")) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("steps", "8,", "a value is empty"),
        ("steps", "8,x", "cannot use 'x'"),
        ("steps", "5-1", "cannot use '5-1'"),
        ("seed", "0-99999999", "has 100,000,000 values"),
        ("seed", "1,random", "random is no value of a list"),
        ("guidance_scale", "3,a", "cannot use 'a'"),
        ("scheduler", "flow-dpm,euler", "there is no 'euler', did you mean 'flow-euler'"),
        ("scheduler", "flow-dpm,flow-eulr", "there is no 'flow-eulr', did you mean 'flow-euler'"),
    ],
)
def test_bad_values(name: str, text: str, message: str) -> None:
    with pytest.raises(SanaError, match=message) as caught:
        axis_of(name, text)
    assert (caught.value.code, bool(caught.value.hint)) == (ExitCode.USAGE, True)


STEPS, SEED = Axis(name="steps", values=(2, 4)), Axis(name="seed", values=(1, 2, 3))
MODEL, LORA = (
    Axis(name="model", values=("a", "b")),
    Axis(name="loras", values=((), ("x.safetensors:0.5",))),
)


def test_models_are_the_outermost_and_loras_change_seldom() -> None:
    sweep = Sweep([SEED, LORA, MODEL])
    assert [run["model"] for run in sweep.runs()] == ["a", "b"]
    lines = sweep.pictures(GenerationOptions(prompt="a cat"), sweep.runs()[0]).lines
    assert [line.options.loras for line in lines] == [()] * 3 + [("x.safetensors:0.5",)] * 3
    assert [line.options.seed for line in lines] == [1, 2, 3] * 2
    assert lines[3].id == "seed1-lorax.safetensors:0.5-modela"
    assert str(sweep) == "12 pictures: 3 of --seed x 2 of --lora x 2 of --model"


def test_seeds_are_rows_and_models_columns() -> None:
    columns, rows, blocks = Sweep([STEPS, SEED, MODEL]).sheet_axes
    assert (columns, rows, blocks) == (MODEL, SEED, STEPS)
    sweep = Sweep([STEPS, SEED])
    assert sweep.in_sheet_order() == [f"steps{s}-seed{n}" for n in (1, 2, 3) for s in (2, 4)]
    assert Sweep([SEED]).sheet_axes == (SEED, None, None)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model", ("one/m", "two/m")),
        ("model", ("one/m", "two/M")),
        ("model", ("a/b", "a-b")),
        ("decoder", ("/x/vae", "/y/vae", "full")),
        ("loras", (("one/l.safetensors",), ("two/l.safetensors",), ())),
        ("guidance_scale", (4.50000001, 4.50000002)),
    ],
)
def test_values_that_read_alike_are_pictures_of_their_own(
    name: str, values: tuple[Any, ...]
) -> None:
    axis = Axis(name=name, values=values)
    names = Sweep([axis]).in_sheet_order()
    assert len({each.casefold() for each in names}) == len(set(axis.labels)) == len(values)
    assert not any("/" in each for each in names)


def test_four_axes_are_too_many() -> None:
    with pytest.raises(SanaError, match="have several values each: 4 options"):
        Sweep([STEPS, SEED, MODEL, LORA])


def test_seeds() -> None:
    options, axes = with_one_seed(GenerationOptions(prompt="x"), [STEPS])
    assert (options.seed is not None, axes) == (True, [STEPS])
    options, axes = with_one_seed(GenerationOptions(prompt="x", seed=5, count=3), [STEPS])
    assert axes[1].values == (5, 6, 7)
    with pytest.raises(SanaError, match="give --count or several seeds"):
        with_one_seed(GenerationOptions(prompt="x", count=3), [SEED])


def test_names() -> None:
    sweep = Sweep([STEPS])
    assert sweep.output_of(GenerationOptions()) is None
    assert sweep.output_of(GenerationOptions(output="a.webp")) == "a-{id}.webp"
    assert sweep.output_of(GenerationOptions(output="new/")) == "new/"
    assert sweep.output_of(GenerationOptions(output="{id}-x.jpg")) == "{id}-x.jpg"


def test_the_document_lists_the_options_that_can_be_axes() -> None:
    """In the order in which they get columns of a sheet."""
    text = (Path(__file__).parents[3] / "docs/sweeps.md").read_text(encoding="utf-8")
    listed = re.search(r"can be axes at once: (.*?)\.\s", text, re.DOTALL)
    assert listed is not None
    assert tuple(re.findall(r"`(--[a-z-]+)`", listed[1])) == AXES
