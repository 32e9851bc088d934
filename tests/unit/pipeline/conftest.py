"""The built-in model, and what a picture of it is asked to be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.request.runtime import RuntimeOptions


@pytest.fixture
def params(builtin: Checkpoint) -> Callable[..., GenerationParams]:
    """Of a small picture in two steps, unless told otherwise."""

    def make(prompt: str = "a cat", **options: Any) -> GenerationParams:
        usual = {"width": 64, "height": 64, "steps": 2, "seed": 1}
        return resolve(GenerationOptions(prompt=prompt, **{**usual, **options}), builtin)

    return make


class Told:
    """A reporter that remembers, and lets stages fail as they begin, once each."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.stages: list[str] = []
        self.failures: dict[str, BaseException] = {}  # by the stage that fails next

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def stage(self, title: str, total: int | None = None) -> Any:
        from contextlib import nullcontext

        self.stages.append(title)
        if title in self.failures:
            raise self.failures.pop(title)
        return nullcontext(lambda: None)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def opened(builtin: Checkpoint, told: Told) -> Callable[..., SanaPipeline]:
    """A pipeline on the CPU; keywords are those of `RuntimeOptions`, and `expects`."""

    def make(*, expects: Any = "more", **runtime: Any) -> SanaPipeline:
        options = RuntimeOptions(**{"precision": "fp32", **runtime})
        return SanaPipeline(
            builtin, options, device=torch.device("cpu"), reporter=told, expects=expects
        )

    return make


@pytest.fixture
def components(opened: Callable[..., SanaPipeline]) -> Components:
    """Of a pipeline on the CPU."""
    return opened().components
