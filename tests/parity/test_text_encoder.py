"""Prompt states against diffusers' `encode_prompt`, which pads, masks and runs everything every time."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.loading.load import load_prompt_encoder
from sana_cli.models.text_encoder import PromptEncoder

# L text tokens, C channels

TOLERANCE = 2e-5  # of states whose spread is about one
LIMIT = 299  # prompt tokens besides BOS


class Counter:
    """Counts the tokens that a text encoder is asked to compute, until `stop`."""

    def __init__(self, model: nn.Module) -> None:
        self.tokens = 0
        hook = model.register_forward_pre_hook(self._count, with_kwargs=True)
        self.stop = hook.remove

    def _count(self, model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = given[0] if given else named["input_ids"]
        self.tokens += ids.numel()


def make_encoder(pipelines: Any, name: str) -> PromptEncoder:
    checkpoint = open_checkpoint(str(pipelines.folder(name)))
    return load_prompt_encoder(checkpoint, dtype="fp32", device=torch.device("cpu"))


@pytest.fixture
def encoder(pipelines: Any) -> PromptEncoder:
    return make_encoder(pipelines, "plain")


@torch.no_grad()
def expected(pipeline: Any, reference: ModuleType, prompt: str, *, enhance: bool) -> Tensor:
    """diffusers' states (1, L, C) at the positions that its mask keeps."""
    embeds, mask, _, _ = pipeline.encode_prompt(
        prompt,
        do_classifier_free_guidance=False,
        device=torch.device("cpu"),
        complex_human_instruction=reference.INSTRUCTION if enhance else None,
    )
    assert embeds.shape[1] == 300
    return embeds[:, mask[0].bool()]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    error = float((ours - theirs).abs().max())
    print(f"largest difference {error:.1e}, spread {float(theirs.std()):.2f}")  # noqa: T201 -- with -s
    assert error <= TOLERANCE, f"states differ by {error:.1e}"


PROMPTS = {
    "empty": "",
    "word": "fox",
    "sentence": "a red fox on a lighthouse rock at dawn",
    "upper_case_and_spaces": "  A RED Fox,\ton a lighthouse rock at DAWN \n",
    "inner_spaces": "a  red   fox",
    "unknown_script": "日本の狐 é, naïve 🦊",
    "several_lines": "a fox\n- a rock\n\nuser prompt: a cat",
    "special_tokens": "a <bos> fox <eos> <pad>",
    "long": "a red fox on a lighthouse rock at dawn " * 60,
    "long_word": "x" * 1000,
}


@pytest.mark.parametrize("enhance", [True, False], ids=["enhance", "no_enhance"])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_states(
    encoder: PromptEncoder, pipelines: Any, reference: ModuleType, prompt: str, enhance: bool
) -> None:
    theirs = expected(pipelines.pipeline("plain"), reference, prompt, enhance=enhance)
    assert_same(encoder.encode(prompt, enhance=enhance).embeds, theirs)


@pytest.mark.parametrize("prompt", ["", "low quality, BLURRY ", "low quality, blurry " * 100])
@pytest.mark.parametrize("beside_enhanced", [True, False])
def test_negative_never_has_the_instruction(
    encoder: PromptEncoder,
    pipelines: Any,
    reference: ModuleType,
    prompt: str,
    beside_enhanced: bool,
) -> None:
    theirs = expected(pipelines.pipeline("plain"), reference, prompt, enhance=False)
    ours = encoder.encode_negative(prompt, beside_enhanced=beside_enhanced).embeds
    assert_same(ours, theirs)
    if not prompt:
        assert ours.shape[1] == 1, "an empty negative prompt is BOS alone"


@pytest.mark.parametrize("enhance", [True, False], ids=["enhance", "no_enhance"])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 50])
def test_states_around_the_limit(
    encoder: PromptEncoder, pipelines: Any, reference: ModuleType, beyond: int, enhance: bool
) -> None:
    """Exactly 299 prompt tokens fit; of more, the first 299 count and the rest is reported."""
    tokenizer = pipelines.pipeline("plain").tokenizer
    # Without the instruction nothing precedes the first word, so it lacks its space.
    first = 1 if enhance else len(tokenizer.encode("fox", add_special_tokens=False))
    prompt = " ".join(["fox"] * (LIMIT + beyond - first + 1))
    theirs = expected(pipelines.pipeline("plain"), reference, prompt, enhance=enhance)
    encoded = encoder.encode(prompt, enhance=enhance)
    assert encoded.embeds.shape[1] == 1 + min(LIMIT, LIMIT + beyond)
    assert encoded.truncated_tokens == max(0, beyond)
    assert_same(encoded.embeds, theirs)


def test_instruction_runs_once(
    encoder: PromptEncoder, pipelines: Any, reference: ModuleType
) -> None:
    """The first prompt pays for the prefix, later ones for their own tokens; all agree with a full pass."""
    pipeline = pipelines.pipeline("plain")
    prefix = len(pipeline.tokenizer.encode("\n".join(reference.INSTRUCTION))) - 1
    for number, prompt in enumerate(["a red fox", "blurry city street at dawn", "a red fox", ""]):
        counter = Counter(encoder.model)
        ours = encoder.encode(prompt, enhance=True).embeds
        counter.stop()
        own = ours.shape[1] - 1
        assert counter.tokens == own + (prefix if number == 0 else 0)
        assert_same(ours, expected(pipeline, reference, prompt, enhance=True))


def test_no_padding_is_computed(encoder: PromptEncoder) -> None:
    counter = Counter(encoder.model)
    ours = encoder.encode("a red fox", enhance=False).embeds
    counter.stop()
    assert counter.tokens == ours.shape[1]


@pytest.mark.parametrize("prompt", ["a red fox", "a", "fox", "a red fox " * 100])
def test_fallback_when_the_prefix_does_not_fit(
    pipelines: Any, reference: ModuleType, prompt: str
) -> None:
    """A tokenizer that merges across the boundary: the whole text runs, and agrees all the same."""
    pipeline = pipelines.pipeline("merging")
    encoder = make_encoder(pipelines, "merging")
    encoder.encode("fox", enhance=True)  # a prefix is cached by then
    counter = Counter(encoder.model)
    ours = encoder.encode(prompt, enhance=True).embeds
    counter.stop()
    if prompt.startswith("a"):
        assert counter.tokens > 100, "the full text ran"
    assert_same(ours, expected(pipeline, reference, prompt, enhance=True))
    again = encoder.encode("fox", enhance=True).embeds
    assert_same(again, expected(pipeline, reference, "fox", enhance=True))


def test_instruction_is_diffusers_own(reference: ModuleType) -> None:
    from sana_cli.config.published import complex_human_instruction

    assert complex_human_instruction() == "\n".join(reference.INSTRUCTION)
