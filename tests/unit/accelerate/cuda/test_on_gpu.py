"""The engine on a CUDA device: kernels, graph, and what they are compared with."""

from typing import Any

import pytest
import torch

from sana_cli.accelerate.cuda.decoder import fuse_decoder
from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.accelerate.cuda.kernels import NAMES, TRITON
from sana_cli.accelerate.cuda.transformer import EngineTransformer, StepInputs
from sana_cli.accelerate.cuda.trial import Widths, relative_error, trusted_kernels
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from tests.unit.accelerate.cuda.models import autoencoder, inputs, transformer

pytestmark = pytest.mark.gpu

QK_NORM = {"qk_norm": "rms_norm_across_heads"}
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.05}


@pytest.fixture(autouse=True)
def _inference() -> Any:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        yield


def on_cuda(contexts: list[TextContext]) -> list[TextContext]:
    def moved(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [t.cuda() for t in tensors]

    return [
        TextContext(c.batch, moved(c.keys), moved(c.values), moved(c.constants)) for c in contexts
    ]


def engine(model: SanaTransformer2D) -> tuple[Engine, list[str]]:
    notices: list[str] = []
    return Engine(model, notice=notices.append), notices


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("width", [64, 1152, 2240])
def test_every_kernel_is_trusted(width: int, dtype: torch.dtype) -> None:
    widths = Widths(width, 5 * width // 2, 32, {64: 16, 1152: 72, 2240: 112}[width])
    notices: list[str] = []
    kernels = trusted_kernels(
        widths, dtype, torch.device("cuda"), verdicts=None, notice=notices.append
    )
    assert notices == []
    assert [getattr(kernels, name) for name in NAMES] == [getattr(TRITON, name) for name in NAMES]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("scheme", ["none", "w8a8", "w8a16"])
@pytest.mark.parametrize("config", [{}, QK_NORM], ids=["plain", "qk norm"])
def test_replays_are_the_models_velocity(
    config: dict[str, Any], scheme: str, dtype: torch.dtype
) -> None:
    model, plain = (transformer(scheme, dtype=dtype, **config).cuda() for _ in range(2))
    model.engine, notices = engine(model)
    # Two texts of one length share a graph; another size needs its own.
    for lengths, h, timestep in (((1, 5), 3, 999.0), ((1, 5), 3, 10.0), ((2, 7), 2, 10.0)):
        for seed in range(2):
            torch.manual_seed(seed)
            latents, contexts = inputs(plain.cpu(), lengths, h=h)
            latents, contexts = torch.randn_like(latents).cuda(), on_cuda(contexts)
            expected = plain.cuda().velocity(latents, timestep, contexts)
            out = model.velocity(latents, timestep, contexts)
            assert relative_error(out, expected) < TOLERANCE[dtype]
    assert notices == []
    assert "CUDA graph captured" in model.engine.summary


@pytest.mark.parametrize("scheme", ["none", "w8a8"])
def test_kernels_of_a_block(scheme: str) -> None:
    """What the profiler sees on the device; a library may split a product, which is told here first."""
    from torch.profiler import ProfilerActivity, profile

    counts = []
    for layers in (1, 2):
        model = transformer(scheme, dtype=torch.bfloat16, layers=layers)
        latents, contexts = inputs(model, (1, 40), h=32, w=32)
        runner = EngineTransformer(model.cuda(), TRITON)
        text, latents = StepInputs(runner.text(on_cuda(contexts))), latents.cuda()
        condition = runner.condition(700.0, None)
        runner.forward(latents, condition, text, None)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            runner.forward(latents, condition, text, None)
            torch.cuda.synchronize()
        events = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        counts.append(len(events))
    assert counts[1] - counts[0] <= 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scheme", ["none", "w8a16", "w8a8"])
def test_the_fused_decoder(scheme: str, dtype: torch.dtype) -> None:
    vae = autoencoder(scheme, dtype=dtype).cuda()
    latents = torch.randn(1, 4, 16, 16, device="cuda", dtype=dtype)
    expected = vae.decode(latents)
    notices: list[str] = []
    assert fuse_decoder(vae, notice=notices.append)
    assert notices == []
    assert relative_error(vae.decode(latents), expected) < TOLERANCE[dtype]
