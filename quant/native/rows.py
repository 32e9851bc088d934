"""Passes over rows of values on a CPU, each in one call of `rows.c` where torch needs several operations.

Every caller has torch's way, too, for where the library is not there, and for tensors that `runs` refuses. Integers and
weights are those of torch to the bit; norms and activations differ by rounding: they are computed in fp32 throughout
and rounded once.
"""

# M rows (tokens, pixels), K input channels, N output channels, C or D channels, G groups of input channels

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.backends.attempt import Failure
from quant.backends.timing import best_seconds
from quant.backends.verdicts import Passing, remembered
from quant.native.library import find_library, has_compiler, is_for_this_processor

UNSIGNED = 128  # offset of integers for products that want them unsigned
_NAME = "compiled"  # the verdict for it
_WIDEST = 32768  # values of a row: of `rows.c`, which holds one on a thread's stack
_WORTH = 1.2  # times as fast, or a noisy machine would change its mind
_NEAR = 1e-5  # of norms, to torch's
TYPES = (torch.float32, torch.bfloat16)

_library: ctypes.CDLL | None = None


def use(
    folder: Path, verdicts: Path | None, before_compiling: Callable[[], None] = lambda: None
) -> bool:
    """Use the library from now on where it is right and faster here, which is measured once a machine.

    It is compiled into `folder`. `before_compiling` is called where that takes a second.
    """
    global _library
    if is_used() or not is_for_this_processor():
        return is_used()
    found: ctypes.CDLL | Failure | None = None

    def decide() -> str:
        nonlocal found
        if has_compiler():
            before_compiling()
        found = find_library(folder)
        if isinstance(found, Failure):
            return "torch" if found.is_refusal else Passing("torch")
        return _NAME if _is_worth_it(found) else "torch"

    verdict = remembered(
        "rows", torch.device("cpu"), decide, verdicts=verdicts, unmeasured=lambda: "torch"
    )
    if verdict == _NAME:
        found = find_library(folder) if found is None else found
        _library = None if isinstance(found, Failure) else _declared(found)
    return is_used()


@contextmanager
def switched_off() -> Iterator[None]:
    """Within the block torch's own operations run: for tests and comparisons."""
    global _library
    found, _library = _library, None
    try:
        yield
    finally:
        _library = found


def is_used() -> bool:
    """Return whether the library runs what it takes in this process."""
    return _library is not None


def runs(*tensors: Tensor | None, whole: bool = False) -> bool:
    """Return whether the library takes these: there, of one type, fp32 or bf16, on a CPU, nobody wants gradients.

    Each has its last axis in order; with `whole` the first one is contiguous.
    """
    if _library is None or torch.is_grad_enabled():
        return False
    first = tensors[0]
    assert first is not None
    if first.dtype not in TYPES or first.shape[-1] > _WIDEST or not first.numel():
        return False
    if whole and not first.is_contiguous():
        return False
    return all(
        t is None
        or (type(t) in _PLAIN and t.dtype == first.dtype and t.is_cpu and t.stride(-1) == 1)
        for t in tensors
    )


_PLAIN = (Tensor, torch.nn.Parameter)  # others may hold no values, or someone else's


# -- integers ----------------------------------------------------------------------------------------


def quantize_tokens(
    x_MK: Tensor, smooth_K: Tensor | None, *, offset: int = 0
) -> tuple[Tensor, Tensor]:
    """Integers (M, K), int8, or uint8 where there is an `offset`, and scales (M,), as `primitives.quantize_per_token`."""
    M, K = x_MK.shape
    q_MK = torch.empty((M, K), dtype=torch.uint8)
    scale_M = torch.empty(M)
    smooth_K = None if smooth_K is None else smooth_K.float()
    _call("quantize_rows", x_MK, x_MK.dtype, M, K, x_MK.stride(0), smooth_K, offset, q_MK, scale_M)
    return q_MK if offset else q_MK.view(torch.int8), scale_M


def largest(x: Tensor) -> float:
    """The largest magnitude of a contiguous x (..., C)."""
    C = x.shape[-1]
    assert _library is not None
    found: float = _library.sana_largest(*_plain((x, x.dtype, x.numel() // C, C)))
    return found


def quantize_all(x: Tensor, scale: float, *, offset: int) -> Tensor:
    """Unsigned integers of a contiguous x (..., C) with one scale."""
    q, C = torch.empty(x.shape, dtype=torch.uint8), x.shape[-1]
    _call("quantize_all", x, x.dtype, x.numel() // C, C, scale, offset, q)
    return q


def finish_product(
    product_MN: Tensor, scale_M: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """fp32 (M, N) times the tokens' scales, plus the bias, in `dtype`; as `primitives.finish_product`."""
    M, N = product_MN.shape
    out = torch.empty((M, N), dtype=dtype)
    bias = None if bias is None else bias.float()
    _call("finish_rows", product_MN, M, N, scale_M, bias, out, dtype)
    return out


def dequantize_rows(q_NK: Tensor, scale_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats (N, K) of int8 rows, as `primitives.dequantize_per_channel`."""
    out = torch.empty(q_NK.shape, dtype=dtype)
    _call("dequantize_rows", q_NK, *q_NK.shape, scale_N.float(), out, dtype)
    return out


def dequantize_groups(q: Tensor, scale_NG: Tensor, group: int) -> Tensor:
    """Floats (N, G * group), in the type of the scales, of packed 4-bit rows."""
    N, G = scale_NG.shape
    out = torch.empty((N, G * group), dtype=scale_NG.dtype)
    _call("dequantize_groups", q, N, G, group, scale_NG, out, out.dtype)
    return out


# -- floats ------------------------------------------------------------------------------------------


def rms_norm(
    x_MC: Tensor,
    weight_C: Tensor,
    bias_C: Tensor | None,
    residual_MC: Tensor | None,
    *,
    eps: float,
    out: Tensor,
) -> None:
    """Write the norm of each row, times the weight, plus bias and residual, to `out` (M, C), which may be x."""
    M, C = x_MC.shape
    bias = None if bias_C is None else bias_C.float()
    residual_MC = None if residual_MC is None else residual_MC.contiguous()
    _call(
        "rms_norm", x_MC, x_MC.dtype, M, C, x_MC.stride(0), eps, weight_C.float(), bias,
        residual_MC, out,
    )  # fmt: skip


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
    """LayerNorm of a contiguous x (B, N, D), times 1 + scale, plus shift: (B, 1, D) or (1, 1, D) each."""
    B, N, D = x.shape
    out = torch.empty_like(x)
    steps = [t.stride(0) if len(t) > 1 else 0 for t in (shift, scale)]
    _call("modulated_norm", x, x.dtype, B, N, D, eps, shift, steps[0], scale, steps[1], out)
    return out


def silu_(x: Tensor) -> Tensor:
    """SiLU in place, of a contiguous x (..., C)."""
    C = x.shape[-1]
    _call("silu", x, x.dtype, x.numel() // C, C)
    return x


def gated_unit(x: Tensor) -> Tensor:
    """A contiguous x (..., 2C) -> (..., C): the first half of the channels times the SiLU of the second."""
    C = x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], C), dtype=x.dtype)
    _call("gated_unit", x, x.dtype, out.numel() // C, C, out)
    return out


# -- the library ---------------------------------------------------------------------------------------

_P, _L, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_ARGUMENTS = {  # of `rows.c`, before the number of threads
    "quantize_rows": (_P, _I, _L, _L, _L, _P, _I, _P, _P),
    "largest": (_P, _I, _L, _L),
    "quantize_all": (_P, _I, _L, _L, _F, _I, _P),
    "finish_rows": (_P, _L, _L, _P, _P, _P, _I),
    "dequantize_rows": (_P, _L, _L, _P, _P, _I),
    "dequantize_groups": (_P, _L, _L, _L, _P, _P, _I),
    "rms_norm": (_P, _I, _L, _L, _L, _F, _P, _P, _P, _P),
    "modulated_norm": (_P, _I, _L, _L, _L, _F, _P, _L, _P, _L, _P),
    "silu": (_P, _I, _L, _L),
    "gated_unit": (_P, _I, _L, _L, _P),
}


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare what the functions take and return."""
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, f"sana_{name}")
        function.argtypes, function.restype = (*arguments, _I), None
    library.sana_largest.restype = _F
    return library


def _plain(values: tuple[object, ...]) -> list[object]:
    """Arguments as C takes them: addresses of tensors, 1 for bf16; and after them the number of threads."""
    plain: list[object] = []
    for value in values:
        if isinstance(value, Tensor):
            plain.append(value.data_ptr())
        elif isinstance(value, torch.dtype):
            plain.append(int(value == torch.bfloat16))
        else:
            plain.append(value)
    return [*plain, torch.get_num_threads()]


def _call(name: str, *values: object) -> None:
    getattr(_library, f"sana_{name}")(*_plain(values))


def _is_worth_it(found: ctypes.CDLL) -> bool:
    """Return whether the library is right, and faster than torch, by a short trial."""
    global _library
    from quant.backends.cpu import quantize_tokens

    generator = torch.Generator().manual_seed(0)
    x_MK = torch.randn(256, 1152, generator=generator)
    _library = None
    with torch.inference_mode():
        expected = quantize_tokens(x_MK)
        normed = F.rms_norm(x_MK, (1152,), eps=1e-5)
        weight, out = torch.ones(1152), torch.empty_like(x_MK)
        _library = _declared(found)
        try:
            ours = quantize_tokens(x_MK, None)
            rms_norm(x_MK, weight, None, None, eps=1e-5, out=out)
            right = all(map(torch.equal, ours, expected)) and torch.allclose(
                out, normed, atol=_NEAR, rtol=_NEAR
            )
            ways = [lambda: quantize_tokens(x_MK, None)]
            seconds = best_seconds(ways, x_MK.device)[0]
        finally:
            _library = None
        plain = best_seconds([lambda: quantize_tokens(x_MK)], x_MK.device)[0]
    return right and plain > _WORTH * seconds
