"""Gemma-2's trunk against transformers', where it differs from other decoders."""

from typing import Any

import pytest
import torch
from transformers import Gemma2Config as TheirConfig
from transformers import Gemma2Model

from sana_cli.config.networks import Gemma2Config
from sana_cli.models.gemma2 import Gemma2

SMALL: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 9,
    "attn_logit_softcapping": 2.0, "sliding_window": 8, "rope_theta": 500.0, "rms_norm_eps": 1e-3,
    "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"attention_bias": True},
        {"attn_logit_softcapping": None},
        {"sliding_window": 1000},
        {
            "layer_types": [
                "full_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ]
        },
        {"num_key_value_heads": 6},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_states(values: dict[str, Any], dtype: torch.dtype) -> None:
    theirs, ours = pair(SMALL | values, dtype)
    ids = torch.randint(1, 50, (1, 30), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(ids).last_hidden_state
        whole, _ = ours(ids)
        first, past = ours(ids[:, :19], keep=True)
        rest, _ = ours(ids[:, 19:], past)
        for states in (whole, torch.cat([first, rest], dim=1)):
            assert states.dtype == dtype
            # bf16 holds three digits, and the states' spread is about one.
            error = float((states - expected).abs().max())
            assert error <= (2e-5 if dtype == torch.float32 else 0.2), error


def test_published_configuration() -> None:
    from sana_cli.bench.flops import GEMMA_2_2B

    with torch.device("meta"):
        ours = Gemma2(Gemma2Config.from_dict(GEMMA_2_2B)).state_dict()
        theirs = Gemma2Model(TheirConfig(**GEMMA_2_2B)).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert Gemma2Config.from_dict(GEMMA_2_2B) == Gemma2Config(), "the defaults are Gemma-2-2b's"


def pair(values: dict[str, Any], dtype: torch.dtype) -> tuple[Gemma2Model, Gemma2]:
    config = TheirConfig(**values, attn_implementation="eager")
    theirs = Gemma2Model(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            scale = 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[1] ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    theirs = theirs.to(dtype)
    ours = Gemma2(Gemma2Config.from_dict({"model_type": "gemma2", **values})).to(dtype).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours
