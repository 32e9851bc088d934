"""Prompts become embeddings: once each, from the cache where they are, under smaller plans, with notices."""

# L text tokens, C width of the embeddings

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sana_cli.models.text_encoder import EncodedPrompt
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.pipeline.text import EncodedPair, encode_prompt, encode_texts, text_key
from sana_cli.pipeline.values import BrokenValues
from sana_cli.request.params import GenerationParams

Params = Callable[..., GenerationParams]


def encoding(told: Any) -> list[str]:
    return [stage for stage in told.stages if "text" in stage]


class Encoder:
    """An encoder that remembers what it was asked for; embeddings are (1, L, 2), L the text's length."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def encode(self, prompt: str, *, enhance: bool) -> EncodedPrompt:
        self.asked.append((prompt, enhance))
        return EncodedPrompt(torch.ones(1, len(prompt) or 1, 2))

    def encode_negative(self, prompt: str, *, beside_enhanced: bool) -> EncodedPrompt:
        self.asked.append((f"not {prompt}", beside_enhanced))
        return EncodedPrompt(torch.zeros(1, len(prompt) or 1, 2))


# -- one picture -----------------------------------------------------------------------------------


@pytest.mark.parametrize("enhance", [True, False])
def test_both_branches(params: Params, enhance: bool) -> None:
    encoder = Encoder()
    pair = encode_prompt(encoder, params("a cat", negative_prompt="rain", enhance=enhance))  # type: ignore[arg-type]
    assert encoder.asked == [("a cat", enhance), ("not rain", enhance)]
    assert [t.shape for t in pair.branches] == [(1, 4, 2), (1, 5, 2)], "the unconditional one first"


def test_one_branch(params: Params) -> None:
    """Neither encoded nor kept, even where it is known."""
    encoder, known = Encoder(), EncodedPrompt(torch.zeros(1, 1, 2))
    pair = encode_prompt(encoder, params(guidance_scale=1.0), negative=known)  # type: ignore[arg-type]
    assert (pair.negative, len(pair.branches), len(encoder.asked)) == (None, 1, 1)


def test_a_known_branch_is_used(params: Params) -> None:
    encoder, known = Encoder(), EncodedPrompt(torch.zeros(1, 1, 2))
    assert encode_prompt(encoder, params(), negative=known).negative is known  # type: ignore[arg-type]
    assert encoder.asked == [("a cat", params().enhance)]


def test_what_decides_the_embeddings(params: Params) -> None:
    usual = text_key(params())
    for same in ({"seed": 2}, {"steps": 9}, {"width": 96}, {"guidance_scale": 2.0}):
        assert text_key(params(**same)) == usual
    others = ({"negative_prompt": "x"}, {"enhance": True}, {"guidance_scale": 1.0})
    keys = {usual, text_key(params("a dog")), *(text_key(params(**other)) for other in others)}
    assert len(keys) == 5


# -- several pictures ------------------------------------------------------------------------------


def test_each_text_once(components: Components, params: Params, told: Any) -> None:
    wanted = [params("a cat", seed=1), params("a dog"), params("a cat", seed=2)]
    texts = encode_texts(components, wanted)
    assert set(texts) == {text_key(p) for p in wanted}
    cat, dog = texts[text_key(wanted[0])], texts[text_key(wanted[1])]
    assert cat.negative is dog.negative, "the negative prompt is the same"
    assert not torch.equal(cat.positive.embeds, dog.positive.embeds)
    assert encoding(told) == ["load text encoder", "text"]


def test_the_next_pipeline_reads_the_cache(
    opened: Callable[..., SanaPipeline], params: Params, told: Any
) -> None:
    wanted = [params("a cat"), params("a dog")]
    first = encode_texts(opened().components, wanted)
    told.stages.clear()
    again = encode_texts(opened().components, wanted)
    assert encoding(told) == []
    for key, pair in first.items():
        for one, other in zip(pair.branches, again[key].branches, strict=True):
            assert torch.equal(one, other)
    encode_texts(opened(prompt_cache=False).components, wanted)
    assert encoding(told) == ["load text encoder", "text"]


def test_a_damaged_cache_is_encoded_again(
    components: Components, params: Params, told: Any
) -> None:
    encode_texts(components, [params()])
    cache = components.prompt_cache()
    assert cache is not None
    cache.path("a cat", enhance=params().enhance).write_bytes(b"no embeddings")
    told.stages.clear()
    texts = encode_texts(components, [params()])
    assert "text" in encoding(told)
    assert texts[text_key(params())].positive.embeds.ndim == 3
    told.stages.clear()
    encode_texts(components, [params()])
    assert encoding(told) == [], "and was written anew"


def test_out_of_memory_streams_the_encoder(
    opened: Callable[..., SanaPipeline], params: Params, told: Any,
    before_computing: Callable[..., Any],
) -> None:  # fmt: skip
    components = opened(prompt_cache=False, expects="one").components
    components.plan_for(params())
    whole = encode_texts(components, [params()])
    left = [1]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise MemoryError

    with before_computing("text", fail):
        streamed = encode_texts(components, [params()])
    assert components.plan.streams_text
    assert told.notices == [f"out of memory: text; trying {components.plan}"]
    key = text_key(params())
    torch.testing.assert_close(streamed[key].positive.embeds, whole[key].positive.embeds)


def test_broken_values_are_not_kept(
    components: Components, params: Params, before_computing: Callable[..., Any]
) -> None:
    """Of weights that broke while they were in memory."""
    encoder = components.text_encoder()
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(BrokenValues, match="text encoding"):
        encode_texts(components, [params()])
    cache = components.prompt_cache()
    assert cache is not None
    assert not cache.holds(params())


# -- notices ---------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long(components: Components, params: Params, told: Any) -> None:
    encode_texts(components, [params("a cat and " * 200)])
    [notice] = [line for line in told.notices if "too long" in line]
    assert notice.startswith("the prompt is too long: its last ")
    assert notice.endswith(" tokens are not used")


@pytest.mark.parametrize("count", [1, 10, 12])
def test_words_that_a_model_does_not_know(
    components: Components, params: Params, told: Any, count: int
) -> None:
    """Those of the cache, too; ten at most are listed."""
    words = tuple(f"zq{i}" for i in range(count))
    p = params("a cat", guidance_scale=1.0)
    cache = components.prompt_cache()
    assert cache is not None
    cache.write(p, EncodedPair(EncodedPrompt(torch.ones(1, 2, 3), 0, words), None))
    encode_texts(components, [p])
    listed = ", ".join(words[:10]) + (" and 2 more" if count == 12 else "")
    assert told.notices == [f"builtin does not know these words: {listed}"]
