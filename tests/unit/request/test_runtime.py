"""How pictures are drawn: read from options, or from what a program says."""

from typing import Any

import pytest

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError
from sana_cli.request.runtime import RuntimeOptions, runtime_of


def test_of_options(builtin: Checkpoint) -> None:
    options = GenerationOptions(
        device="cpu",
        precision="fp32",
        plan="streamed",
        tile=64,
        max_memory="2GiB",
        prompt_cache=False,
    )
    assert runtime_of(options, builtin) == RuntimeOptions(
        device="cpu", precision="fp32", plan="streamed", decode="exact-tiles", tile=64,
        max_memory=2**31, prompt_cache=False,
    )  # fmt: skip
    assert runtime_of(GenerationOptions(plan="auto"), builtin) == RuntimeOptions()


def test_a_backend_insists_only_where_it_was_typed(builtin: Checkpoint) -> None:
    with pytest.raises(
        SanaError, match="builtin is not quantized, --backend native has nothing to run"
    ):
        runtime_of(GenerationOptions(backend="native"), builtin)
    set_once = GenerationOptions(backend="native", sources={"backend": "a file"})
    assert runtime_of(set_once, builtin).backend == "auto"


def test_of_a_program() -> None:
    assert RuntimeOptions.of(max_memory="4GiB").max_memory == 2**32
    assert RuntimeOptions.of(max_memory=2**30).max_memory == 2**30
    assert RuntimeOptions.of(plan="auto").plan is None
    assert RuntimeOptions.of(tile=128) == RuntimeOptions(decode="exact-tiles", tile=128)
    every = RuntimeOptions(
        device="cpu", precision="fp32", backend="reference", plan="streamed", decode="blended-tiles",
        tile=64, branches_apart=True, max_memory=2**31, prompt_cache=False,
    )  # fmt: skip
    assert RuntimeOptions.of(**every.changed()) == every


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precision": "fp8"}, "precision cannot be 'fp8'"),
        ({"device": "gpu"}, "device cannot be 'gpu'"),
        ({"device": None}, "device cannot be None"),
        ({"device": 3}, "device cannot be 3"),
        ({"precision": None}, "precision cannot be None"),
        ({"tile": 100}, "cannot decode in tiles of 100 pixels"),
        ({"tile": -1}, "cannot decode in tiles of -1 pixels"),
        ({"tile": "x"}, "tile cannot be 'x'"),
        ({"tile": 128, "decode": "whole"}, "--decode whole has no tiles"),
        ({"max_memory": 0}, "cannot use '0'"),
        ({"prompt_cache": "x"}, "prompt_cache cannot be 'x'"),
        ({"plan": "all"}, "plan cannot be 'all'"),
        ({"max_memory": "lots"}, "cannot use 'lots'"),
        ({"presicion": "fp32"}, "did you mean 'precision'"),
        ({"nonsense": 1}, "there is no option 'nonsense'"),
        ({"decoder": "tiny"}, "decoder is an option of a picture"),
        ({"count": 3}, "count is not an option of a pipeline"),
        ({"quality": 90}, "quality is not an option of a pipeline"),
    ],
)
def test_what_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SanaError, match=message):
        RuntimeOptions.of(**values)
