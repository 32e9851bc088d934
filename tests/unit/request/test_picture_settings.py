"""What a file carries is enough to draw it again: settings and options turn into each other."""

from dataclasses import replace

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import FIELDS, GenerationOptions
from sana_cli.request.options import options_of_picture
from sana_cli.request.params import resolve
from sana_cli.request.picture_settings import picture_settings


def test_a_picture_s_settings_resolve_to_its_parameters(builtin: Checkpoint) -> None:
    options = GenerationOptions(
        prompt="a cat", negative_prompt="a dog", width=96, height=64, steps=3, guidance_scale=2,
        guidance_interval="0.2-0.9", cache=0.1, scheduler="flow-euler", seed=7, enhance=False,
    )  # fmt: skip
    params = resolve(options, builtin)
    carried = {k: v for k, v in picture_settings(params, builtin).items() if v is not None}
    assert resolve(options_of_picture(carried, "a.png"), builtin) == params
    usual = resolve(GenerationOptions(prompt="a cat", seed=1), builtin)
    carried = {k: v for k, v in picture_settings(usual, builtin).items() if v is not None}
    assert "cache" not in carried
    assert "guidance_interval" not in carried
    assert resolve(options_of_picture(carried, "a.png"), builtin) == usual


def test_every_key_of_the_table_is_written(builtin: Checkpoint) -> None:
    """But for files, which need one, and for where it was drawn and how it is saved."""
    params = resolve(GenerationOptions(prompt="a cat", seed=1, upscale=2), builtin)
    keys = set(picture_settings(replace(params, cache=0.1, template="a {cat|dog}"), builtin))
    elsewhere = {"image", "strength", "mask", "loras", "device", "backend", "quality"}
    elsewhere |= {"control", "control_scale", "control_type", "control_order"}
    assert {f.option.picture for f in FIELDS.values()} - elsewhere - {""} <= keys
