"""Count the operations that a denoising step issues, per block and pass: ours on a CPU and a GPU,
and diffusers'.

`python -m benchmarks.launches` runs narrow models with real block structure under a dispatch mode
that counts what computes: views and allocations launch nothing. On a GPU each of these is at least
one kernel. The CUDA engine's kernels count as one each, which
tests/unit/accelerate/cuda/test_launches.py checks. The count of a block is the difference between
models of three and two. The document goes to `benchmarks/results/launches.json`.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import typer
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.record import record
from quant.backends.cpu import KERNELS
from quant.convert import quantize_
from quant.layers import QuantLinear
from quant.native import rows
from sana_cli.accelerate.cpu_fused_qkv import fuse_projections_
from sana_cli.accelerate.cpu_packed_linear import pack_linears_
from sana_cli.accelerate.cuda.kernels import NAMES, REFERENCE, Kernels
from sana_cli.accelerate.cuda.transformer import EngineTransformer, StepInputs
from sana_cli.bench.machine import machine
from sana_cli.config.networks import TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.models.sana_transformer import SanaTransformer2D

_NARROW = TransformerConfig(
    num_attention_heads=4, num_layers=2, num_cross_attention_heads=4, cross_attention_head_dim=32,
    cross_attention_dim=128, caption_channels=48, sample_size=4,
)  # fmt: skip
_NO_LAUNCH = (
    "empty", "detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "scalar_tensor",
)  # fmt: skip


class LaunchCounter(TorchDispatchMode):
    """Counts operations that compute, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._inside = False

    def as_one(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted as one operation."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.counts[name] += 1
            self._inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False

        return run

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not self._inside and not func.is_view and not name.startswith(_NO_LAUNCH):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Operations of the block, under no_grad as in a run; a call of compiled code is one."""
    call = rows._call
    with torch.no_grad(), LaunchCounter() as counter:
        rows._call = counter.as_one("compiled", call)
        try:
            yield counter.counts
        finally:
            rows._call = call


def of_ours(
    prepare: Callable[[SanaTransformer2D], object],
    layers: int,
    dtype: torch.dtype = torch.float32,
) -> Counter[str]:
    """A guided pass of our transformer: an empty and a real text, both ready."""
    config = replace(_NARROW, num_layers=layers)
    model = SanaTransformer2D(config).to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        texts = (torch.randn(1, L, config.caption_channels).to(dtype) for L in (1, 7))
        contexts = [model.encode_text(text) for text in texts]
    prepare(model)
    latents, timestep = torch.randn(2, 32, 4, 4).to(dtype), torch.full((2,), 500.0)
    with torch.no_grad():
        model(latents, timestep, contexts)  # kernels find out once what the machine can do
    with counting() as counts:
        model(latents, timestep, contexts)
    return counts


def of_the_engine(scheme: str | None, layers: int) -> Counter[str]:
    """The same pass by the CUDA engine, on the definitions of its kernels."""
    config = replace(_NARROW, num_layers=layers)
    model = SanaTransformer2D(config).bfloat16().eval().requires_grad_(False)
    if scheme is not None:
        quantize_(model, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
    counter = LaunchCounter()
    kernels = Kernels(**{name: counter.as_one(name, getattr(REFERENCE, name)) for name in NAMES})
    with torch.no_grad():
        texts = (torch.randn(1, L, config.caption_channels).bfloat16() for L in (1, 7))
        contexts = [model.encode_text(text) for text in texts]
        engine = EngineTransformer(model, kernels)
        condition = engine.condition(500.0, None)
        text = StepInputs(engine.text(contexts))
        with counter:
            engine.forward(torch.randn(2, 32, 4, 4).bfloat16(), condition, text, None)
    return counter.counts


def of_diffusers(layers: int) -> Counter[str]:
    """The same pass of diffusers' class, texts padded to its 300 tokens."""
    from diffusers import SanaTransformer2DModel

    config = asdict(replace(_NARROW, num_layers=layers))
    known = {"guidance_embeds_scale", "timestep_scale"}
    model = SanaTransformer2DModel(**{k: v for k, v in config.items() if k not in known}).eval()
    text, mask = torch.randn(2, 300, _NARROW.caption_channels), torch.ones(2, 300)
    with counting() as counts:
        model(torch.randn(2, 32, 4, 4), text, torch.full((2,), 500.0), encoder_attention_mask=mask)
    return counts


def _as_on_a_cpu(model: SanaTransformer2D) -> None:
    fuse_projections_(model)
    pack_linears_(model)


def _in_w8a8(model: SanaTransformer2D, *, kernels: bool) -> None:
    quantize_(model, component_recipe("transformer", "w8a8"), token_convs=TOKEN_CONVS)
    if kernels:
        fuse_projections_(model)
        kernel = next(k for k in KERNELS if k.name == "onednn" and k.layer is QuantLinear)
        for layer in model.modules():
            if isinstance(layer, QuantLinear):
                layer.attach(kernel.run, kernel.pack(layer), free=kernel.frees_weight)
        pack_linears_(model)


def with_compiled_passes(layers: int) -> Counter[str]:
    """The CPU engine's pass in w8a8 with our C code, which runs for bf16 in more places than for fp32."""
    with tempfile.TemporaryDirectory() as folder:
        assert rows.use(Path(folder), verdicts=None), (
            "there is no C compiler, or its code is slower here"
        )
    return of_ours(lambda m: _in_w8a8(m, kernels=True), layers, torch.bfloat16)


def counts_a_block(count: Callable[[int], Counter[str]]) -> Counter[str]:
    """Count what one more block adds."""
    return count(3) - count(2)


def measure() -> dict[str, dict[str, Any]]:
    """Rows of the document, by path."""
    paths: dict[str, Callable[[int], Counter[str]]] = {
        "diffusers": of_diffusers,
        "sana, plain (any device)": lambda n: of_ours(lambda model: None, n),
        "sana, CPU engine": lambda n: of_ours(_as_on_a_cpu, n),
        "sana, w8a8 reference": lambda n: of_ours(lambda m: _in_w8a8(m, kernels=False), n),
        "sana, w8a8 CPU engine": lambda n: of_ours(lambda m: _in_w8a8(m, kernels=True), n),
        "sana, CUDA engine, 16 bits": lambda n: of_the_engine(None, n),
        "sana, CUDA engine, w8a8": lambda n: of_the_engine("w8a8", n),
        "sana, w8a8 CPU engine, compiled passes": with_compiled_passes,  # last: it stays in use
    }
    counted: dict[str, dict[str, Any]] = {}
    for name, count in paths.items():
        block = counts_a_block(count)
        around = count(2).total() - 2 * block.total()
        counted[name] = {
            "block": block.total(),
            "around": around,
            "pass_of_28_blocks": around + 28 * block.total(),
            "operations_of_a_block": dict(block.most_common()),
        }
    return counted


def main() -> None:
    """Count, print and keep."""
    document = {
        "benchmark": "launches",
        "date": date.today().isoformat(),
        "machine": machine(),
        "rows": measure(),
    }
    record("launches", document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    typer.run(main)
