"""Gemma's attention after a cache, against its definition and against the model's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quant.kernels import reference
from quant.kernels.softcap_attention import softcap_attention
from sana_cli.models.gemma2 import Masks, rotations
from tests.unit.accelerate.cuda.test_text_encoder import gemma

# fp32: sums in another order. bf16: the interpreter cuts off bits where a device rounds.
CLOSE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def operands(
    L: int, S: int, H: int, K: int, E: int, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    angles = torch.rand(L, E // 2).repeat(1, 2) * 6
    shapes = {
        "q": (L, H * E),
        "k": (L, K * E),
        "v": (L, K * E),
        "past_k": (K, S, E),
        "past_v": (K, S, E),
    }
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    turns = {"cos": angles.cos(), "sin": angles.sin()}
    rest = {"scale": E**-0.5, "cap": 3.0, "window": None}
    return {name: t.to(dtype) for name, t in (tensors | turns).items()} | rest


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize(
    ("L", "S", "H", "K", "E"), [(1, 1, 1, 1, 16), (5, 40, 4, 2, 16), (35, 7, 2, 1, 64)]
)
def test_against_the_reference(
    interpreted: Callable[..., Any], L: int, S: int, H: int, K: int, E: int, dtype: torch.dtype
) -> None:
    arguments = operands(L, S, H, K, E, dtype)
    out = interpreted(softcap_attention, **arguments)
    expected = reference.softcap_attention(**arguments)
    assert out.dtype == dtype
    assert out.shape == (L, H * E)
    torch.testing.assert_close(out, expected, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("change", [{"cap": None}, {"window": 3}, {"window": 1}], ids=str)
def test_other_models(interpreted: Callable[..., Any], change: dict[str, Any]) -> None:
    arguments = operands(20, 9, 2, 1, 16) | change
    out = interpreted(softcap_attention, **arguments)
    expected = reference.softcap_attention(**arguments)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_tokens_that_follow_change_nothing(interpreted: Callable[..., Any]) -> None:
    """Prompts are padded on the right."""
    arguments = operands(20, 9, 2, 1, 16)
    whole = interpreted(softcap_attention, **arguments)
    for name in "qkv":
        arguments[name][6:] = 0
    assert torch.equal(interpreted(softcap_attention, **arguments)[:6], whole[:6])


def test_the_definition_is_the_models() -> None:
    """Of a layer with a window."""
    model, layer = gemma(), 1
    attn = model.layers[layer].self_attn
    with torch.no_grad():
        _, past = model(torch.arange(7)[None], keep=True)
        x, keys, values = torch.randn(1, 5, 64), *past[layer]
        turns = rotations(model.config, 7, 5, x)
        expected, _ = attn(x, turns, Masks(7, 5, x.device), past[layer])
        heads = reference.softcap_attention(
            attn.q_proj(x[0]), attn.k_proj(x[0]), attn.v_proj(x[0]), keys[0], values[0], *turns,
            scale=attn.scale, cap=attn.cap, window=attn.window,
        )  # fmt: skip
        torch.testing.assert_close(attn.o_proj(heads), expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"past_k": torch.zeros(2, 4, 24)}, "heads have 24 channels, not a power of two"),
        ({"q": torch.zeros(3, 48)}, "q has 48 channels, not a multiple of 2 heads of 16"),
        ({"k": torch.zeros(3, 16)}, "k has shape"),
        ({"past_v": torch.zeros(2, 5, 16)}, "past_v has shape"),
        ({"cos": torch.zeros(3, 8)}, "cos has shape"),
        ({"v": torch.zeros(3, 32).half()}, "v is torch.float16"),
        ({"cap": 0.0}, "cap is 0.0, not above 0"),
        ({"window": 0}, "window is 0, not 1 or more"),
        ({}, "CUDA device, not on cpu"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        softcap_attention(**(operands(3, 4, 4, 2, 16) | change))
