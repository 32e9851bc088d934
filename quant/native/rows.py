"""Passes over rows of values on a CPU, each in one call of `rows.c` where torch needs several operations.

Every caller has torch's way, too, for where the library is not there, and for tensors that `runs` refuses. Integers and
weights are those of torch to the bit; norms and activations differ by rounding: they are computed in fp32 throughout
and rounded once.
"""

# M rows (tokens, pixels), K input channels, N output channels, C or D channels, G groups of input channels

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.backends.attempt import Failure
from quant.backends.timing import best_seconds
from quant.backends.verdicts import Passing, remembered
from quant.native.library import find_library, is_for_this_processor

_log = logging.getLogger("sana.run")

_NAME = "compiled"  # the verdict for it
_WIDEST = 32768  # values of a row, which `rows.c` holds on a thread's stack
_WORTH = 1.2  # times as fast, or a noisy machine would change its mind
_TRIAL = (256, 1152)  # tokens of 512 pixels, channels of Sana-0.6B
_NEAR = _EPS = 1e-5  # of norms: how near to torch's, and the constant below their root
TYPES = (torch.float32, torch.bfloat16)

_library: ctypes.CDLL | None = None
# Once a process: what another one finds out later changes no picture of this one.
_is_decided = False
_deciding = Lock()


def use(folder: Path, verdicts: Path | None) -> bool:
    """Use the library from now on where it is right and faster here, which is measured once a machine.

    It is compiled into `folder`, a second.
    """
    global _library, _is_decided
    with _deciding:
        if not _is_decided:
            _library, _is_decided = _chosen(folder, verdicts), True
    return is_used()


def _chosen(folder: Path, verdicts: Path | None) -> ctypes.CDLL | None:
    if not is_for_this_processor():
        return None
    found: ctypes.CDLL | Failure | None = None

    def decide() -> str:
        nonlocal found
        found = find_library(folder)
        if isinstance(found, Failure):
            _log.info("torch's operations run instead of compiled code: %s", found.reason)
            return "torch" if found.is_refusal else Passing("torch")
        return _NAME if _is_worth_it(_declared(found)) else "torch"

    verdict = remembered(
        "rows", torch.device("cpu"), decide, verdicts=verdicts, unmeasured=lambda: "torch"
    )
    if verdict != _NAME:
        return None
    found = find_library(folder) if found is None else found
    return None if isinstance(found, Failure) else _declared(found)


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
    if _library is None or torch.is_grad_enabled() or torch.compiler.is_dynamo_compiling():
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
    q_MK = x_MK.new_empty((M, K), dtype=torch.uint8)
    scale_M = x_MK.new_empty(M, dtype=torch.float32)
    smooth_K = None if smooth_K is None else smooth_K.float()
    assert smooth_K is None or smooth_K.numel() == K
    _call("quantize_rows", x_MK, x_MK.dtype, M, K, x_MK.stride(0), smooth_K, offset, q_MK, scale_M)
    return q_MK if offset else q_MK.view(torch.int8), scale_M


def largest(x: Tensor) -> float:
    """The largest magnitude of a contiguous x (..., C)."""
    C = x.shape[-1]
    found: float = _call("largest", x, x.dtype, x.numel() // C, C)
    return found


def quantize_all(x: Tensor, scale: float, *, offset: int) -> Tensor:
    """Unsigned integers of a contiguous x (..., C) with one scale."""
    q, C = x.new_empty(x.shape, dtype=torch.uint8), x.shape[-1]
    _call("quantize_all", x, x.dtype, x.numel() // C, C, scale, offset, q)
    return q


def finish_product(
    product_MN: Tensor, scale_M: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """fp32 (M, N) times the tokens' scales, plus the bias, in `dtype`; as `primitives.finish_product`."""
    M, N = product_MN.shape
    out = product_MN.new_empty((M, N), dtype=dtype)
    bias = None if bias is None else bias.float()
    _call("finish_rows", product_MN, M, N, scale_M, bias, out, dtype)
    return out


def dequantize_rows(q_NK: Tensor, scale_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats (N, K) of int8 rows, as `primitives.dequantize_per_channel`."""
    out = q_NK.new_empty(q_NK.shape, dtype=dtype)
    _call("dequantize_rows", q_NK, *q_NK.shape, scale_N.float(), out, dtype)
    return out


def dequantize_groups(q: Tensor, scale_NG: Tensor, group: int) -> Tensor:
    """Floats (N, G * group), in the type of the scales, of packed 4-bit rows."""
    N, G = scale_NG.shape
    out = scale_NG.new_empty((N, G * group))
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
    assert weight_C.numel() == C
    bias = None if bias_C is None else bias_C.float()
    residual_MC = None if residual_MC is None else residual_MC.contiguous()
    _call(
        "rms_norm", x_MC, x_MC.dtype, M, C, x_MC.stride(0), eps, weight_C.float(), bias,
        residual_MC, out,
    )  # fmt: skip


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
    """LayerNorm of a contiguous x (B, N, D), times 1 + scale, plus shift: (B, 1, D) or (1, 1, D) each."""
    B, N, D = x.shape
    assert {len(shift), len(scale)} <= {1, B}
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
    out = x.new_empty((*x.shape[:-1], C))
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


def _call(name: str, *values: object) -> Any:
    return getattr(_library, f"sana_{name}")(*_plain(values))


def _is_worth_it(found: ctypes.CDLL) -> bool:
    """Return whether the library is right, and faster than torch, by a short trial. It is not in use yet."""
    from quant.backends.cpu import quantize_tokens as as_torch_does

    M, C = _TRIAL
    options: Any = {"dtype": torch.float32, "device": "cpu"}
    x_MC = torch.randn(_TRIAL, generator=torch.Generator().manual_seed(0), **options)
    q_MC, scale_M = x_MC.new_empty(_TRIAL, dtype=torch.int8), x_MC.new_empty(M)
    weight, out = torch.ones(C, **options), torch.empty_like(x_MC)

    def quantize() -> None:
        found.sana_quantize_rows(*_plain((x_MC, x_MC.dtype, M, C, C, None, 0, q_MC, scale_M)))

    with torch.inference_mode():
        quantize()
        found.sana_rms_norm(*_plain((x_MC, x_MC.dtype, M, C, C, _EPS, weight, None, None, out)))
        expected = as_torch_does(x_MC)
        right = all(map(torch.equal, (q_MC, scale_M), expected)) and torch.allclose(
            out, F.rms_norm(x_MC, (C,), eps=_EPS), atol=_NEAR, rtol=_NEAR
        )
        seconds, plain = best_seconds([quantize, lambda: as_torch_does(x_MC)], x_MC.device)
    return right and plain > _WORTH * seconds
