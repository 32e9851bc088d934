"""The root-mean-square norm on every way that it is computed."""

import pytest
import torch

from sana_cli.models.layers import RMSNorm


def published(norm: RMSNorm, x: torch.Tensor) -> torch.Tensor:
    """As diffusers writes it: normed in fp32, rounded, then weighted."""
    variance = x.float().square().mean(-1, keepdim=True)
    normed = (x * torch.rsqrt(variance + norm.eps)).to(x.dtype)
    out = normed * norm.weight
    return out if norm.bias is None else out + norm.bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("grad", [False, True], ids=["", "grad"])
def test_one_pass_is_the_published_norm(dtype: torch.dtype, bias: bool, grad: bool) -> None:
    """With gradients a CPU computes it as a GPU does, where an fp32 copy of a large map would cost half of the decoder's memory."""
    norm = RMSNorm(48, bias=bias).to(dtype)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, mean=1.0)
    x, residual = (torch.randn(2, 5, 48).to(dtype) * 9 for _ in range(2))
    kept = x.clone()
    with torch.set_grad_enabled(grad):
        limits = (
            {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
        )
        torch.testing.assert_close(norm(x), published(norm, x), **limits)
        torch.testing.assert_close(
            norm(x, residual.clone()), published(norm, x) + residual, **limits
        )
    assert torch.equal(x, kept)
