"""What a person should know before a picture is drawn."""

from collections.abc import Callable
from typing import Any

import pytest

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.pipeline.notices import notices_for
from sana_cli.request.params import GenerationParams


def test_nothing_where_all_is_usual(
    builtin: Checkpoint, params: Callable[..., GenerationParams]
) -> None:
    assert list(notices_for(params("a cat", width=None, height=None, steps=4), builtin)) == []


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a cat", {"width": 64, "height": 64}, "was trained at 256x256"),
        ("a submarine", {}, "knows none of the things in this prompt"),
        ("a yellow banana", {}, 'without a colour word best: try "a banana"'),
        ("a cat", {"negative_prompt": "a dog", "guidance_scale": 1.0}, "--negative has no effect"),
        ("a cat", {"guidance_interval": "0-1", "cache": 0.1, "steps": 1}, "--cache has no effect"),
        ("a cat", {"guidance_interval": "0.0001-0.0002"}, "drawn without guidance"),
    ],
)
def test_each(
    builtin: Checkpoint, params: Callable[..., GenerationParams], prompt: str, options: dict[str, Any], message: str
) -> None:  # fmt: skip
    usual: dict[str, Any] = {"width": None, "height": None, "steps": 4}
    lines = list(notices_for(params(prompt, **{**usual, **options}), builtin))
    assert len(lines) == 1
    assert message in lines[0]
