"""Settings as JSON: each program's names, and texts that are no settings."""

import json

import pytest

from sana_cli.images.foreign_json import settings_of_dream, settings_of_json


def test_swarmui_and_fooocus() -> None:
    swarm = {
        "sui_image_params": {
            "prompt": "a fox",
            "negativeprompt": "fog",
            "cfgscale": 7,
            "steps": 20,
            "seed": 5,
            "model": "m",
            "width": 64,
            "height": 96,
        }
    }
    found = settings_of_json(json.dumps(swarm), "1x1")
    assert found is not None
    assert (found.program, found.guidance, found.negative_prompt, found.size) == (
        "SwarmUI",
        7,
        "fog",
        "64x96",
    )
    fooocus = {
        "prompt": "a fox",
        "guidance_scale": 4.0,
        "seed": "5",
        "steps": 30,
        "version": "Fooocus v2.5.5",
    }
    found = settings_of_json(json.dumps(fooocus), "64x32")
    assert found is not None
    assert (found.program, found.seed, found.size) == ("Fooocus", 5, "64x32")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "5", '{"prompt": "a fox"}', '{"mflux_version": "1"}', "{" * 5000]
)
def test_what_is_none(text: str) -> None:
    assert settings_of_json(text, "1x1") is None


def test_words_in_brackets_of_a_prompt_are_negative_only_at_its_end() -> None:
    found = settings_of_json(json.dumps({"positive_prompt": "a [red] fox"}), "1x1", "InvokeAI")
    assert found is not None
    assert (found.prompt, found.negative_prompt) == ("a [red] fox", "")
    found = settings_of_dream('"a fox [fog]" -s 5 -S 1 -A k_lms -W 64 -H 32', "1x1")
    assert found is not None
    assert (found.prompt, found.negative_prompt, found.steps, found.size) == (
        "a fox",
        "fog",
        5,
        "64x32",
    )
    assert found.others == {"sampler": "k_lms"}
