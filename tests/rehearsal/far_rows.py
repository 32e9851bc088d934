"""Run a kernel on rows that are more than 2^31 values apart: `python -m tests.rehearsal.far_rows CASE [FOLDER]`.

Memory is reserved, and real where it is touched alone. With a folder, the kernel's source is written there with offsets of 32 bits, and
run from there: what the test must catch. Needs TRITON_INTERPRET=1. Ends with 1 where a row differs from the kernel's definition.
"""

# M rows, K input channels, N output channels

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

from quant.kernels import reference as of
from quant.kernels.depthwise3x3_glu import repack as repack_depthwise
from quant.kernels.linear_w4a16 import repack as repack_groups
from quant.kernels.tiles import Tile
from quant.packing import pack_int4
from quant.primitives import quantize_per_channel, quantize_per_group

BEYOND = 2**31
_TILE = Tile(m=16, n=32, k=32, warps=4, stages=1)
Result = tuple[Tensor, Tensor]  # what the kernel wrote, and what it should have


def reserved(*shape: int, dtype: torch.dtype, strides: tuple[int, ...] | None = None) -> Tensor:
    """Zeros that take no memory before they are written."""
    if strides is None:
        size = int(np.prod(shape, dtype=np.int64))
    else:
        size = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    bytes_each = torch.empty(0, dtype=dtype).element_size()
    flat = torch.from_numpy(np.zeros(size * bytes_each, np.uint8)).view(dtype)
    return flat.view(shape) if strides is None else flat.as_strided(shape, strides)


def far(near: Tensor, stride: int) -> Tensor:
    """The same rows (M, K), `stride` values apart."""
    rows = reserved(*near.shape, dtype=near.dtype, strides=(stride, 1))
    rows.copy_(near)
    return rows


def rows_of(M: int, K: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(M, K, generator=torch.Generator().manual_seed(0)).to(dtype)


_APART = BEYOND // 4 + 16  # of five rows
_ENDS = [0, -1]  # rows of the programs that run, where each has one
_APART_IN_TILES = (
    BEYOND // 16 + 16
)  # the second tile of 16 rows is beyond; within a tile offsets are small


def quantize_per_token(launch: Callable[..., None]) -> Result:
    x = rows_of(5, 64).bfloat16()
    branch, gate = x.flip(0), rows_of(1, 64)
    q, scale = far(torch.zeros(5, 64, dtype=torch.int8), _APART), torch.zeros(5)
    launch(far(x, _APART), far(branch, _APART), gate, None, q, scale)
    expected, of_rows = of.quantize_per_token(x.clone(), branch=branch, gate=gate)
    return (q.float() * scale[:, None])[_ENDS], (expected.float() * of_rows[:, None])[_ENDS]


def layer_norm_modulate(launch: Callable[..., None]) -> Result:
    x, branch = rows_of(5, 64).bfloat16(), rows_of(5, 64).flip(0).bfloat16()
    rest = {"shift": rows_of(1, 64), "scale": rows_of(1, 64) / 2}
    gate = rows_of(1, 64)
    out = far(torch.zeros_like(x), _APART)
    launch(
        far(x, _APART), *rest.values(), 1e-6, far(branch, _APART), 0, gate, None, None, out, None,
    )  # fmt: skip
    expected = of.layer_norm_modulate(x.clone(), **rest, eps=1e-6, branch=branch, gate=gate)
    return out[_ENDS], expected[_ENDS]


def rms_norm(launch: Callable[..., None]) -> Result:
    x, weight = rows_of(5, 64).bfloat16(), rows_of(1, 64)
    residual = x.flip(0)
    out = far(torch.zeros_like(x), _APART)
    launch(
        far(x, _APART)[:, None], weight, None, far(residual, _APART)[:, None], out[:, None], None, 1e-5, None,
    )  # fmt: skip
    return out, of.rms_norm(x[:, None], weight, eps=1e-5, residual=residual[:, None])[:, 0]


def relu_linear_attention(launch: Callable[..., None]) -> Result:
    q, k, v = (rows_of(5, 96)[:, i : i + 32] for i in (0, 32, 64))
    out = torch.zeros(1, 5, 1, 32, dtype=torch.bfloat16)
    given = [far(t.bfloat16(), _APART)[None, :, None] for t in (q, k, v)]
    launch(*given, out, 1e-15)
    return out, of.relu_linear_attention(
        *(t.bfloat16()[None, :, None] for t in (q, k, v)), eps=1e-15
    )


def cross_attention(launch: Callable[..., None]) -> Result:
    apart = BEYOND // 64 + 16  # a tile has 64 rows
    x = rows_of(65, 64).bfloat16()
    keys, values = (rows_of(7, 64).bfloat16().view(1, 7, 2, 32).transpose(1, 2) for _ in range(2))
    out = far(torch.zeros_like(x), apart)
    launch(far(x, apart), None, None, None, None, None, keys, values, None, out, None)
    return out, of.cross_attention(x, keys, values)


def linear_w8a8(launch: Callable[..., None]) -> Result:
    q, scale = of.quantize_per_token(rows_of(32, 64))
    weight, weight_scale = quantize_per_channel(rows_of(32, 64).flip(0))
    residual = rows_of(32, 32).bfloat16()
    out = far(torch.zeros_like(residual), _APART_IN_TILES)
    launch(
        far(q, _APART_IN_TILES), scale, weight, weight_scale, None, None,
        far(residual, _APART_IN_TILES), out, None, None, None, _TILE,
    )  # fmt: skip
    return out, of.linear_w8a8(
        q, scale, weight, weight_scale, residual=residual, out_dtype=torch.bfloat16
    )


def linear_w4a16(launch: Callable[..., None]) -> Result:
    x, dense = rows_of(32, 64).bfloat16(), rows_of(32, 64).flip(0)
    q, scale = quantize_per_group(dense, 64)
    weight = repack_groups(pack_int4(q), scale, in_features=64, group_size=64)
    out = far(torch.zeros(32, 32, dtype=torch.bfloat16), _APART_IN_TILES)
    launch(far(x, _APART_IN_TILES), weight, None, out, _TILE)
    return out, x.float() @ (q.float() * scale.float().repeat_interleave(64, dim=1)).T


def depthwise3x3_glu(launch: Callable[..., None]) -> Result:
    H, W, C = 2**13 + 8, 2**10, 2**7
    x = reserved(1, H, W, 2 * C, dtype=torch.bfloat16)
    x[:, -3:] = rows_of(3 * W, 2 * C).view(1, 3, W, 2 * C).bfloat16()
    weight, bias = repack_depthwise(rows_of(2 * C, 9).view(2 * C, 1, 3, 3)), rows_of(1, 2 * C)[0]
    out = reserved(1, H, W, C, dtype=torch.bfloat16)
    launch(x, weight, bias, out, None, 2)
    expected = of.depthwise3x3_glu(x[:, -3:].clone(), weight, bias)
    # What the last program writes: the end of the last two rows and of the channels.
    return out[:, -2:, -16:, -32:], expected[:, -2:, -16:, -32:]


def conv3x3_w8a8(launch: Callable[..., None]) -> Result:
    H, W, K = 2**13 + 8, 2**14, 16
    q = reserved(1, H, W, K, dtype=torch.int8)
    last = (127 * rows_of(3 * W, K).tanh()).to(torch.int8).view(1, 3, W, K)
    q[:, -3:] = last
    weight = (127 * rows_of(16, 9 * K).tanh()).to(torch.int8).view(16, 3, 3, K)
    scale, weight_scale = torch.tensor([0.01]), torch.full((16,), 0.01)
    out = reserved(1, H, W, 16, dtype=torch.bfloat16)
    launch(q, scale, weight, weight_scale, None, None, None, out, None, None, _TILE)
    expected = of.conv3x3_w8a8(last, scale, weight, weight_scale, out_dtype=torch.bfloat16)
    return out[:, -1, -16:], expected[:, -1, -16:]


def quantize_map(launch: Callable[..., None]) -> Result:
    values, last = BEYOND + 4096, rows_of(1, 64)
    x, q = (reserved(1, values, dtype=t) for t in (torch.bfloat16, torch.int8))
    x[:, -64:] = last.bfloat16()
    scale = torch.tensor(0.02)
    launch(x, scale, None, q, scale)
    return q[:, -64:], of.quantize_map(last.bfloat16(), scale=scale)[0]


def bias_activation(launch: Callable[..., None]) -> Result:
    x, last, bias = (
        reserved(BEYOND // 64 + 64, 64, dtype=torch.bfloat16),
        rows_of(3, 64),
        rows_of(1, 64)[0],
    )
    x[-3:] = last.bfloat16()
    launch(x, bias, "silu")
    return x[-3:], of.bias_activation(last.bfloat16(), bias, activation="silu")


def join_phases(launch: Callable[..., None]) -> Result:
    H, W, N = 2**12 + 8, 2**13, 16  # four phases of 2^29 values: what is written is beyond 2^31
    phases = [reserved(1, H + 1, W + 1, N, dtype=torch.bfloat16) for _ in range(4)]
    for i, phase in enumerate(phases):
        phase[:, -3:] = rows_of(3 * (W + 1), N).view(1, 3, W + 1, N).bfloat16() + i
    out = reserved(1, 2 * H, 2 * W, N, dtype=torch.bfloat16)
    launch(phases, None, None, out)
    expected = of.join_phases([phase[:, -3:].clone() for phase in phases], None)
    # The last program of the last phase writes every other pixel at the end of the last row.
    return out[:, -1, -63::2], expected[:, -1, -63::2]


CASES: Mapping[str, Callable[[Callable[..., None]], Result]] = {
    case.__name__: case
    for case in (
        quantize_per_token, layer_norm_modulate, rms_norm, relu_linear_attention, cross_attention, linear_w8a8,
        linear_w4a16, depthwise3x3_glu, conv3x3_w8a8, quantize_map, bias_activation, join_phases,
    )
}  # fmt: skip


class Corners(interpreter.GridExecutor):  # type: ignore[misc]
    """Runs the first and the last program of each axis, in the tensors' own memory."""

    def __call__(self, *given: Any, **named: Any) -> None:
        named = {k: v for k, v in named.items() if k in inspect.getfullargspec(self.fn).args}
        scope = interpreter._patch_lang(self.fn)
        try:
            args = inspect.getcallargs(self.fn, *given, **named)
            args = {
                name: value if name in self.constexprs else interpreter._implicit_cvt(value)
                for name, value in args.items()
            }
            grid = (self.grid(args) if callable(self.grid) else self.grid) + (1, 1)
            interpreter.interpreter_builder.set_grid_dim(*grid[:3])
            ends = [dict.fromkeys((0, n - 1)) for n in grid[:3]]
            for at in ((x, y, z) for x in ends[0] for y in ends[1] for z in ends[2]):
                interpreter.interpreter_builder.set_grid_idx(*at)
                self.fn(**args)
        finally:
            scope.restore()


def narrowed(kernel: str, folder: Path) -> ModuleType:
    """A kernel's module with offsets of 32 bits."""
    source = Path(importlib.import_module(f"quant.kernels.{kernel}.kernel").__file__ or "")
    text = source.read_text(encoding="utf-8")
    assert "tl.int64" in text
    path = folder / f"{kernel}_narrow.py"
    path.write_text(text.replace("tl.int64", "tl.int32"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def main(kernel: str, folder: str = "") -> int:
    """Return 1 where rows differ, and say so."""
    interpreter.GridExecutor = Corners
    module = (
        narrowed(kernel, Path(folder))
        if folder
        else importlib.import_module(f"quant.kernels.{kernel}.kernel")
    )
    out, expected = CASES[kernel](module.launch)
    error = float((out.float() - expected.float()).abs().max() / expected.float().abs().max())
    if error < 0.02:
        return 0
    sys.stderr.write(f"{kernel} is off by {error:.2g}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
