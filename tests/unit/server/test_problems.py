"""What a body that cannot be used is told."""

import pytest

from sana_cli.server.problems import in_fields, validation_problem


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("size", "width and height"),  # as of the command, and of OpenAI
        ("guidance", "guidance_scale"),
        ("negative", "negative_prompt"),
        ("no-enhance", "enhance"),
        ("Prompt", "prompt"),
        ("promt", "prompt"),
        ("widht", "width"),
    ],
)
def test_a_field_that_is_not_known_names_the_one_that_is(name: str, meant: str) -> None:
    problem = validation_problem(f"Object contains unknown field `{name}`")
    assert problem.message == f"Object contains unknown field {name}"
    assert problem.hint == f"did you mean {meant}? /openapi.json lists all fields"
    assert problem.param == name


def test_flags_are_named_as_fields_but_in_commands() -> None:
    said = "use --guidance 4.5, a smaller --size, or `sana serve --max-memory 4GiB`"
    meant = "use guidance_scale 4.5, a smaller width and height, or `sana serve --max-memory 4GiB`"
    assert in_fields(said) == meant


@pytest.mark.parametrize(
    "message",
    [
        "Object contains unknown field `zzzzzz`",
        "Object contains unknown field `loras`",
        "Object contains unknown field `lora`",
        "Object contains unknown field `wildcards`",
        "Object contains unknown field `wildcards_folder`",
        "Object contains unknown field `size` - at `$.image`",
        "Expected `int`, got `str` - at `$.width`",
    ],
)
def test_without_a_likely_field_the_list_of_all(message: str) -> None:
    assert validation_problem(message).hint == "look at /openapi.json"
