"""The reference pictures are lively: what the parity tests would overlook if it were wrong.

A picture that is flat, saturated or deaf to the prompt would agree with almost any implementation.
"""

import copy
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

VARIANTS = ["plain", "qk_norm", "pos_embed_1", "pos_embed_2", "sprint", "flow_euler"]
VISIBLE = 5 / 255
# Twice the tolerances of the parity tests: what they see for certain.
SEEN_AT_ANY_PIXEL = 4 / 255
SEEN_ON_AVERAGE = 0.4 / 255


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b).mean() / 255)


@pytest.mark.parametrize("name", VARIANTS)
def test_pictures_use_their_range(pipelines: Any, name: str) -> None:
    picture = pipelines.draw(name)
    assert picture.std(axis=(0, 1)).min() > 20, "varies in space, in every channel"
    assert np.mean((picture == 0) | (picture == 255)) < 0.25, "is not saturated"
    assert picture.min() < 30
    assert picture.max() > 225


@pytest.mark.parametrize("name", VARIANTS)
def test_pictures_depend_on_every_setting(pipelines: Any, reference: ModuleType, name: str) -> None:
    picture = pipelines.draw(name)
    changes = {
        "prompt": {"prompt": reference.OTHER_PROMPT},
        "seed": {"seed": 8},
        "guidance": {"guidance": 1.0},
        "instruction": {"enhance": False},
        "steps": {"steps": 3},
    }
    if name != "sprint":
        changes["negative prompt"] = {"negative": reference.NEGATIVE}
    for what, settings in changes.items():
        change = mean_difference(pipelines.draw(name, **settings), picture)
        assert change > VISIBLE, (
            f"another {what} changes the picture by {255 * change:.1f}/255 only"
        )


def test_pictures_depend_on_the_scheduler(pipelines: Any, reference: ModuleType) -> None:
    pipeline = copy.copy(pipelines.pipeline("plain"))
    pipeline.register_modules(scheduler=reference.make_scheduler("flow-euler", 3.0))
    assert mean_difference(reference.draw(pipeline), pipelines.draw("plain")) > VISIBLE


@pytest.mark.parametrize("name", VARIANTS)
def test_pictures_are_well_conditioned(pipelines: Any, reference: ModuleType, name: str) -> None:
    """fp32 rounding stays invisible, so a visible difference is an error and not chaos."""
    pipeline = pipelines.pipeline(name)
    noise = torch.randn(1, 32, 3, 4, generator=torch.Generator().manual_seed(7))
    pictures = [
        reference.draw(pipeline, latents=noise * (1 + nudge), steps=20, raw=True)
        for nudge in (0, 1e-5)
    ]
    assert (pictures[0] - pictures[1]).abs().max() / 2 < 0.1 / 255


def hidden_tensors(
    module: torch.nn.Module, prefix: str, picture: Any, draw: Callable[[], Any]
) -> list[str]:
    """Parameters that can be rolled by one place (a wrong order or slice) with no visible effect."""
    hidden = []
    for path, parameter in module.named_parameters():
        if not path.startswith(prefix):
            continue
        original = parameter.data
        parameter.data = original.roll(1, -1 if path.endswith("table") else 0)
        change = np.abs(np.asarray(draw(), np.float64) - np.asarray(picture)) / 255
        parameter.data = original
        if change.max() < SEEN_AT_ANY_PIXEL and change.mean() < SEEN_ON_AVERAGE:
            hidden.append(f"{path} ({255 * change.max():.1f}/255)")
    return hidden


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what the first call returned, whatever is asked."""
    results: list[Any] = []

    def call(*arguments: Any, **named: Any) -> Any:
        if not results:
            results.append(function(*arguments, **named))
        return results[0]

    return call


@pytest.mark.slow  # of our own models, which change with `reference.py` alone
@pytest.mark.parametrize(
    ("name", "part"),
    [("plain", "transformer"), ("sprint", "transformer"), ("plain", "text_encoder")],
)
def test_every_tensor_shows(pipelines: Any, reference: ModuleType, name: str, part: str) -> None:
    pipeline = copy.copy(pipelines.pipeline(name))
    draw = partial(reference.draw, pipeline, steps=2, width=96, height=64)
    if part == "transformer":
        pipeline.encode_prompt = remembered(pipeline.encode_prompt)
    hidden = hidden_tensors(pipeline.components[part], "", draw(), draw)
    # Softmax hardly sees a bias that all keys share, and not at all without qk-norm.
    hidden = [path for path in hidden if "attn2.to_k.bias" not in path]
    assert not hidden, f"errors in these tensors would hide: {hidden}"


@pytest.mark.slow  # as above
def test_every_tensor_of_the_decoder_shows(pipelines: Any, reference: ModuleType) -> None:
    pipeline = pipelines.pipeline("plain")
    latents = pipeline(
        reference.PROMPT, width=96, height=64, num_inference_steps=2, use_resolution_binning=False,
        generator=torch.Generator().manual_seed(7), output_type="latent",
    ).images  # fmt: skip

    def draw() -> Any:
        with torch.no_grad():
            image = pipeline.vae.decode(latents / reference.SCALING_FACTOR).sample
        return (image / 2 + 0.5).clamp(0, 1) * 255

    hidden = hidden_tensors(pipeline.vae, "decoder.", draw(), draw)
    assert not hidden, f"errors in these tensors would hide: {hidden}"


def test_tokenizer_treats_the_instruction_as_gemma_does(
    reference: ModuleType, tmp_path: Any
) -> None:
    from transformers import AutoTokenizer

    reference.make_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    instruction = "\n".join(reference.INSTRUCTION)
    alone = tokenizer.encode(instruction)
    full = tokenizer.encode(instruction + reference.PROMPT)
    assert alone[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in alone
    assert tokenizer.convert_ids_to_tokens(alone[-1]) == "▁"
    assert full[: len(alone) - 1] == alone[:-1], "the prefix is constant but for its last token"
    assert tokenizer.convert_ids_to_tokens(full[len(alone) - 1]) == "▁a", "which merges"
    padded = tokenizer("fox", padding="max_length", max_length=9, truncation=True)
    assert padded.attention_mask[0] == 1, "padding is on the right"
    assert padded.attention_mask[-1] == 0
    assert tokenizer.decode(tokenizer.encode("狐 é"), skip_special_tokens=True) == "狐 é"


def test_merging_tokenizer_defeats_the_prefix(reference: ModuleType) -> None:
    tokenizer = reference.make_tokenizer(merging=True)
    instruction = "\n".join(reference.INSTRUCTION)
    alone = tokenizer.encode(instruction)
    assert tokenizer.encode(instruction + "a fox")[: len(alone) - 1] != alone[:-1]
    assert tokenizer.encode(instruction + "fox")[: len(alone) - 1] == alone[:-1]
