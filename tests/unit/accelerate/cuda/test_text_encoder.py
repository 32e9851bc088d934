"""Gemma-2's fused norms against its own, and how many launches a prompt takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.launches import LaunchCounter
from sana_cli.accelerate.cuda.kernels import REFERENCE, TRITON, Kernels
from sana_cli.accelerate.cuda.text_encoder import fuse_norms
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.config.networks import Gemma2Config
from sana_cli.models.gemma2 import Gemma2

SMALL: dict[str, Any] = {
    "architectures": ["Gemma2Model"], "model_type": "gemma2", "vocab_size": 30, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 9, "sliding_window": 5,
    "attn_logit_softcapping": 50.0, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 64,
}  # fmt: skip


def gemma(dtype: torch.dtype = torch.float32) -> Gemma2:
    torch.manual_seed(0)
    model = Gemma2(Gemma2Config.from_dict(SMALL)).requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.3 if "norm" in name else parameter.shape[-1] ** -0.5)
    return model.to(dtype).eval()


def error(dtype: torch.dtype, candidates: Kernels) -> float:
    """Of a prompt after an instruction, kept keys and values included."""
    model, ids = gemma(dtype), torch.arange(12)[None]
    with torch.inference_mode():
        expected = model(ids)[0]
        assert fuse_norms(model, notice=pytest.fail, candidates=candidates)
        _, past = model(ids[:, :7], keep=True)
        out, _ = model(ids[:, 7:], past)
    return relative_error(out, expected[:, 7:])


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=str
)
def test_the_same_states(dtype: torch.dtype, limit: float) -> None:
    assert error(dtype, REFERENCE) < limit


def test_on_kernels(interpreted: Callable[..., Any]) -> None:
    assert interpreted(error, torch.float32, TRITON) < 1e-5


def test_a_norm_and_its_residual_are_one_launch() -> None:
    model, counter = gemma(), LaunchCounter()
    kernels = Kernels(
        **{name: getattr(REFERENCE, name) for name in Kernels.__dataclass_fields__}
        | {"rms_norm": counter.as_one("rms_norm", REFERENCE.rms_norm)}
    )
    assert fuse_norms(model, notice=pytest.fail, candidates=kernels)
    counter.counts.clear()  # of the trial
    with torch.no_grad(), counter:
        model(torch.arange(6)[None])
    assert counter.counts["rms_norm"] == 4 * 4 + 1
    assert counter.counts["lt"] == 2  # masks are made once for layers of a kind
    assert counter.counts["add"] <= 2 * 4 + 4  # rotations of queries and keys


def test_other_models_have_no_such_norms() -> None:
    assert not fuse_norms(torch.nn.Linear(2, 2), notice=pytest.fail)
