"""Inputs of the transformer: what the next picture shares is used again, everything else is replaced."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sana_cli.pipeline.inputs import Inputs
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.request.params import GenerationParams
from sana_cli.system.precision import DtypePlan

Params = Callable[..., GenerationParams]


@pytest.fixture
def inputs(opened: Callable[..., SanaPipeline]) -> Inputs:
    return Inputs(opened(prompt_cache=False).components)


def of(inputs: Inputs) -> Any:
    return inputs._components


def encoded(told: Any) -> int:
    return told.stages.count("text")


def test_a_text_is_encoded_once(inputs: Inputs, params: Params, told: Any) -> None:
    first = inputs.text(params(seed=1))
    assert inputs.text(params(seed=2, steps=9, width=96)) is first
    assert encoded(told) == 1
    assert len(first.branches) == 2


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a dog"}, {"negative_prompt": "rain"}, {"enhance": True}, {"guidance_scale": 1.0}],
)
def test_another_text(inputs: Inputs, params: Params, told: Any, change: dict[str, Any]) -> None:
    inputs.text(params())
    inputs.text(params(**change))
    assert encoded(told) == 2
    inputs.text(params())
    assert encoded(told) == 3, "texts that were replaced are not kept"


def test_several_with_one_encoder(inputs: Inputs, params: Params, told: Any) -> None:
    inputs.encode([params("a cat"), params("a dog"), params("a cat", seed=5)])
    for prompt in ("a cat", "a dog"):
        inputs.text(params(prompt))
    assert encoded(told) == 1
    assert told.stages.count("load text encoder") == 1


def test_contexts_are_the_text_s(inputs: Inputs, params: Params, told: Any) -> None:
    """The transformer's keys and values of each branch, computed when the text or the transformer changes."""
    transformer, contexts, _ = inputs.transformer(params())
    assert len(contexts) == 2
    again, same, _ = inputs.transformer(params(seed=9, steps=5))
    assert (again is transformer, same is contexts) == (True, True)
    assert len(inputs.transformer(params(guidance_scale=1.0)).contexts) == 1
    with torch.inference_mode():
        expected = transformer.encode_text(inputs.text(params("a dog")).positive.embeds)
    _, found, _ = inputs.transformer(params("a dog"))
    assert len(found) == 2
    for keys, others in zip(_tensors(found[1]), _tensors(expected), strict=True):
        assert torch.equal(keys, others)


def _tensors(context: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def walk(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            for each in value:
                walk(each)
        elif hasattr(value, "__slots__"):
            for name in value.__slots__:
                walk(getattr(value, name))

    walk(context)
    assert found
    return found


def test_the_two_largest_parts_never_meet(
    opened: Callable[..., SanaPipeline], params: Params, told: Any
) -> None:
    components = opened(prompt_cache=False, plan="stages").components
    components.plan_for(params())
    inputs = Inputs(components)
    inputs.transformer(params())
    assert told.stages == ["load text encoder", "text", "load transformer"]
    told.stages.clear()
    inputs.transformer(params("a dog"))
    assert told.stages == ["load text encoder", "text", "load transformer"], (
        "the old one went first"
    )


def test_another_precision_encodes_again(inputs: Inputs, params: Params, told: Any) -> None:
    inputs.transformer(params())
    components = of(inputs)
    components.dtypes = DtypePlan(transformer="bf16", vae="fp32", text_encoder="bf16")
    components.evict()
    transformer, contexts, _ = inputs.transformer(params())
    assert encoded(told) == 2
    assert transformer.proj_out.weight.dtype == torch.bfloat16
    assert {t.dtype for t in _tensors(contexts) if t.is_floating_point()} == {torch.bfloat16}


def test_out_of_memory_while_loading_takes_a_smaller_plan(
    inputs: Inputs, params: Params, told: Any
) -> None:
    """The text is there already; it is not encoded again for the smaller plan."""
    components = of(inputs)
    components.plan_for(params())
    told.failures["load transformer"] = MemoryError()
    transformer, contexts, _ = inputs.transformer(params())
    assert told.notices == ["out of memory: loading the transformer; trying resident, decode whole"]
    assert (encoded(told), len(contexts)) == (1, 2)
    assert transformer is components.transformer()


def test_originals(inputs: Inputs, params: Params, told: Any, tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    image.save(tmp_path / "a.png")
    p = params(image=str(tmp_path / "a.png"), strength=0.5)
    assert inputs.init_latents(params()) is None
    inputs.encode_originals([p])
    first = inputs.init_latents(p)
    inputs.encode_originals([p])
    again = inputs.init_latents(p)
    assert first is not None
    assert again is not None
    assert first.latents is again.latents
    assert told.stages.count("load encoder") == 1
    inputs.clear()
    with pytest.raises(KeyError):
        inputs.init_latents(p)
    inputs.encode_originals([p])
    assert told.stages.count("load encoder") == 2
