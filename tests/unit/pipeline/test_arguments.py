"""Checks of what a program gives to `SanaPipeline`."""

from typing import Any

import pytest

from sana_cli.errors import SanaError
from sana_cli.pipeline.arguments import (
    CALLBACKS,
    OPTIONS,
    callbacks_from,
    require_functions,
    require_options,
    require_prompts,
    require_unchanged,
)


def test_options_of_a_picture_are_no_other_s() -> None:
    assert {"steps", "seed", "image", "loras", "decoder", "control_hed"} <= set(OPTIONS)
    assert not {"output", "model", "format", "device", "count", "plan", "tile"} & set(OPTIONS)
    require_options(OPTIONS)


def test_callbacks_are_functions() -> None:
    options: dict[str, Any] = {"steps": 3, "on_step": print}
    assert callbacks_from(options) == {"on_step": print}
    assert options == {"steps": 3}
    for name in CALLBACKS:
        require_functions(**{name: None})
        with pytest.raises(SanaError, match=f"{name} cannot be 3"):
            require_functions(**{name: 3})


@pytest.mark.parametrize("prompts", ["a cat", "", 3, None])
def test_several_prompts_are_no_text(prompts: object) -> None:
    with pytest.raises(SanaError, match="stream cannot draw"):
        require_prompts(prompts)
    require_prompts([prompts])


def test_resolved_parameters_stay_as_they_are() -> None:
    require_unchanged({})
    with pytest.raises(SanaError, match="steps cannot change") as refused:
        require_unchanged({"steps": 3})
    assert "pipe.params(prompt, steps=...)" in refused.value.hint
