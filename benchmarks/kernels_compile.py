"""Compile every kernel and tile, for devices that need not be at hand, and read the machine code.

`python -m benchmarks.kernels_compile` compiles each for compute capability 8.0, 8.6, 8.9, 9.0, 10.0 and 12.0 and for AMD's
gfx942, reads registers, stack, shared memory and the mix of instructions from the machine code (`machine_code.py`), and
looks for tensor-core instructions in it, and from 9.0 on for a wait before the first access of memory (`quant.kernels.dependent`). It uses a process for each core, prints a table, and keeps every row at once in
`benchmarks/results/kernels-compile.json`; what has not changed since (`kernel_digest.py`) is not compiled again, so a run that
was stopped resumes. Exit code 1 if something spills, does not fit, or lacks tensor cores; AMD's rows are reported and fail
nothing, since nothing of the engine runs there yet.
"""

import importlib
import json
import multiprocessing
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Annotated, Any

import typer

from benchmarks.kernel_digest import digest_of
from benchmarks.machine_code import MachineCode, of_amd, of_nvidia
from benchmarks.record import RESULTS, record
from quant.backends.attempt import Failure, attempt
from quant.kernels.dependent import FIRST_CAPABILITY

# M rows, K input channels, N output channels

RESULT = RESULTS / "kernels-compile.json"
CAPABILITIES = (80, 86, 89, 90, 100, 120)
HIP = "gfx942"  # MI300
SHARED_BYTES = 99 * 1024  # what one program may have on 8.6, 8.9 and 12.0; 9.0 has 227 KB
_SHARED_OF_HIP = 64 * 1024
_ON_HIP = {"REMAINDERS": 0, "PRECISION": "ieee"}  # what kernels are given on AMD's devices instead


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kernel as it would be launched: types of its pointers, constants, warps and stages."""

    kernel: str  # its folder
    variant: str
    function: str = ""  # in it, without "_kernel"; "": of the folder's name
    pointers: dict[str, str]  # None in Triton's place of an absent tensor is a constant
    constants: dict[str, Any]
    warps: int
    stages: int = 1
    instruction: str = ""  # the tensor cores' one, as a pattern of machine code
    numbers: tuple[str, ...] = field(default=())  # integers that are multiples of 16, as widths are
    floats: tuple[str, ...] = field(default=())
    first_capability: int = 80  # that has its types
    only_capability: int | None = None  # that it is for
    warps_on: Mapping[int, int] = field(
        default_factory=dict
    )  # other numbers of warps, by capability

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.variant}"


def cases() -> Iterator[Case]:
    """Every kernel with the tiles of its table, and with those that measuring may choose."""
    from quant.kernels.tiles import (
        CONV3X3_W8A8,
        LINEAR_CANDIDATES,
        LINEAR_W4A16,
        LINEAR_W8A8_ON_LOAD,
        WIDE,
        tiles_of,
    )  # fmt: skip

    yield from (_quantize(K, parts) for K in (1152, 2880, 5760) for parts in ("", "smooth"))
    yield from (
        _quantize(K, parts) for K in (1152, 2240) for parts in ("float8", "branch smooth float8")
    )
    for D in (1152, 2240):
        yield from (
            _layer_norm(D, parts)
            for parts in (
                "",
                "branch gate",
                "addend quantize smooth",
                "branch gate float8",
                "branch addend float8",
            )
        )
    yield from (_attention(type_, "") for type_ in ("bf16", "fp16", "fp32"))
    for part in ("sums", "attend"):
        yield from (_attention(type_, part) for type_ in ("bf16", "fp32"))
    for E in (72, 112):
        for parts in ("", "product bias", "product bias smooth mask", "product bias odd"):
            yield _cross_attention(E, parts)
    yield from (_depthwise(parts) for parts in ("bf16", "bf16 silu", "fp32"))
    yield from (_rms_norm(D, "") for D in (1152, 2240))
    yield from (
        _rms_norm(D, parts)
        for D in (128, 1024)
        for parts in ("bias relu", "bias residual", "bias residual largest")
    )
    yield from (_softcap_attention(type_) for type_ in ("bf16", "fp16"))
    yield from (_largest_of_map(), _quantize_map("largest"), _quantize_map("stored scale"))
    yield from (_bias_activation(parts) for parts in ("bias silu", "relu"))
    yield from (_join_phases(N) for N in (128, 1024))
    for tile in LINEAR_CANDIDATES:
        yield _linear_w8a8(tile, "bias silu")
        yield _linear_w8a8(tile, "bias gate residual")
        yield _linear_w8a8(tile, "bias gate residual odd")
        yield _linear_w8a8(tile, "bias gate residual largest smooth")
    for tile in tiles_of(LINEAR_W8A8_ON_LOAD):
        yield _linear_w8a8(tile, "floats residual")
        yield _linear_w8a8(tile, "floats bias gate residual odd")
    for tile in tiles_of(CONV3X3_W8A8):
        yield _conv3x3_w8a8(tile, "bias")
        yield _conv3x3_w8a8(tile, "bias silu largest")
        if tile != WIDE:
            yield _conv3x3_w8a8(tile, "bias residual")
            yield _conv3x3_w8a8(tile, "bias residual odd")
            yield _conv3x3_w8a8(tile, "bias upsampled shortcut largest")
    for tile in tiles_of(LINEAR_W4A16):
        yield from (_linear_w4a16(tile, group_size) for group_size in (64, 128))


def _quantize(K: int, parts: str = "") -> Case:
    from quant.kernels.rows import block_and_warps

    block, warps = block_and_warps(K)
    optional = {
        "branch_ptr": ("branch", "*bf16"), "gate_ptr": ("branch", "*fp32"),
        "smooth_ptr": ("smooth", "*fp32"),
    }  # fmt: skip
    present = {name: type_ for name, (part, type_) in optional.items() if part in parts}
    float8 = "float8" in parts
    return Case(
        kernel="quantize_per_token",
        variant=f"K={K} {parts}".strip(),
        first_capability=89 if float8 else 80,
        pointers=present
        | {"x_ptr": "*bf16", "q_ptr": "*fp8e4nv" if float8 else "*i8", "scale_ptr": "*fp32"},
        constants={"BLOCK_K": block} | {name: None for name in optional if name not in present},
        warps=warps,
        numbers=("K", "gate_rows", "stride_x", "stride_branch", "stride_gate", "stride_q"),
    )


def _layer_norm(D: int, parts: str) -> Case:
    from quant.kernels.rows import block_and_warps

    block, warps = block_and_warps(D)
    optional = {
        "branch_ptr": ("branch", "*bf16"), "gate_ptr": ("gate", "*fp32"),
        "addend_ptr": ("addend", "*fp32"), "smooth_ptr": ("smooth", "*fp32"),
        "token_scale_ptr": ("quantize", "*fp32"),
    }  # fmt: skip
    float8 = "float8" in parts
    wanted = parts + (" quantize" if float8 else "")
    present = {name: type_ for name, (part, type_) in optional.items() if part in wanted}
    out = "*fp8e4nv" if float8 else "*i8" if "quantize" in parts else "*bf16"
    strides = tuple(
        f"stride_{name}" for name in ("x", "branch", "gate", "addend", "shift", "scale", "out")
    )
    return Case(
        kernel="layer_norm_modulate",
        variant=f"D={D} {parts}".strip(),
        pointers=present
        | {"x_ptr": "*bf16", "shift_ptr": "*fp32", "scale_ptr": "*fp32"}
        | {"out_ptr": out},
        first_capability=89 if float8 else 80,
        constants={"BLOCK_D": block} | {name: None for name in optional if name not in present},
        warps=warps,
        numbers=(
            "D",
            "branch_first",
            "branch_rows",
            "gate_rows",
            "addend_rows",
            "shift_rows",
            "scale_rows",
            *strides,
        ),
        floats=("eps",),
    )


def _attention(type_: str, part: str) -> Case:
    """`part`: of two launches, "sums" or "attend"; else all in one."""
    import torch
    import triton.language as tl

    from quant.kernels.relu_linear_attention.kernel import STAGES, WARPS, block_n

    dot = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}[type_]
    step = block_n(torch.float32 if type_ == "fp32" else torch.bfloat16)
    tensors = {"sums": "kv", "attend": "q"}.get(part, "qkv")
    pointers = {f"{t}_ptr": f"*{type_}" for t in tensors}
    pointers |= {"parts_ptr": "*fp32"} if part else {}
    pointers |= {} if part == "sums" else {"out_ptr": f"*{type_}"}
    sums, attends = {"DOT": dot}, {"NARROW": type_ != "fp32"}
    own = {"sums": sums, "attend": attends}.get(part, sums | attends)
    functions = {"sums": "key_value_sums", "attend": "attend_to_sums"}
    return Case(
        kernel="relu_linear_attention",
        function=functions.get(part, ""),
        variant=f"E=32 {type_} {part}".strip(),
        pointers=pointers,
        constants={"PRECISION": "tf32x3", "BLOCK_N": step, "BLOCK_E": 32} | own,
        warps=WARPS,
        stages=STAGES,
        instruction=r"(UTC)?H(G?)MMA",
        numbers=(
            "N",
            "E",
            "span",
            *(f"stride_{t}_{of}" for t in "qkv" for of in ("picture", "token", "head")),
        ),
        floats=() if part == "sums" else ("eps",),
    )


def _cross_attention(E: int, parts: str) -> Case:
    """`product`: of the queries, quantized while they are read. `odd`: widths that steps do not divide."""
    import torch
    import triton.language as tl

    from quant.kernels.cross_attention.kernel import WARPS, blocks, steps, warps_for

    optional = {
        "x_largest_ptr": ("product", "*fp32"), "weight_ptr": ("product", "*i8"),
        "weight_scale_ptr": ("product", "*fp32"), "bias_ptr": ("bias", "*bf16"),
        "smooth_ptr": ("smooth", "*fp32"), "mask_ptr": ("mask", "*i1"),
    }  # fmt: skip
    present = {name: type_ for name, (part, type_) in optional.items() if part in parts}
    (block_m, block_k, block_l, stages), (block_a, block_b) = steps(torch.bfloat16), blocks(E)
    return Case(
        kernel="cross_attention",
        variant=f"E={E} {parts}".strip(),
        pointers=present
        | dict.fromkeys(("x_ptr", "key_ptr", "value_ptr", "out_ptr"), "*bf16")
        | {"largest_ptr": "*i32"},
        constants={
            "DOT": tl.bfloat16,
            "PRECISION": "tf32x3",
            "REMAINDERS": 2 if "smooth" in parts else 1,
            "EVEN_K": "odd" not in parts,
            "BLOCK_M": block_m,
            "BLOCK_K": block_k,
            "BLOCK_L": block_l,
            "BLOCK_A": block_a,
            "BLOCK_B": block_b,
        }
        | {name: None for name in optional if name not in present},
        warps=WARPS,
        warps_on={target: warps_for(E, divmod(target, 10)) for target in CAPABILITIES},
        stages=stages,
        instruction=r"(UTC)?I(G?)MMA" if "product" in parts else r"(UTC)?H(G?)MMA",
        numbers=(
            "N", "K", "stride_x", "stride_weight", "stride_out",
            *(f"stride_{t}_{of}" for t in ("key", "value") for of in ("picture", "head", "token")),
        ),
        floats=("to_exponents",),
    )  # fmt: skip


def _depthwise(parts: str) -> Case:
    from quant.kernels.depthwise3x3_glu.kernel import BLOCK_C, BLOCK_W, WARPS

    type_ = parts.split()[0]
    return Case(
        kernel="depthwise3x3_glu",
        variant=f"{BLOCK_W}x{BLOCK_C} {WARPS}w {parts}",
        pointers=dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr", "out_ptr"), f"*{type_}"),
        constants={"SILU": "silu" in parts, "BLOCK_W": BLOCK_W, "BLOCK_C": BLOCK_C},
        warps=WARPS,
        numbers=("C",),
    )


def _rms_norm(D: int, parts: str) -> Case:
    from quant.kernels.rms_norm.kernel import rows_block_and_warps

    rows, block, warps = rows_block_and_warps(D)
    optional = {"bias_ptr": "bias", "residual_ptr": "residual", "largest_ptr": "largest"}
    present = {pointer: "*bf16" for pointer, part in optional.items() if part in parts}
    present |= {"largest_ptr": "*i32"} if "largest" in parts else {}
    strides = (f"stride_{t}_{of}" for t in ("x", "residual", "out") for of in ("row", "part"))
    return Case(
        kernel="rms_norm",
        variant=f"D={D} {parts}".strip(),
        pointers=present | {"x_ptr": "*bf16", "weight_ptr": "*bf16", "out_ptr": "*bf16"},
        constants={"RELU": "relu" in parts, "ONE_PICTURE": True, "ROWS": rows, "BLOCK_D": block}
        | {pointer: None for pointer in optional if pointer not in present},
        warps=warps,
        numbers=("M", "D", "picture_rows", "stride_weight", "stride_bias", *strides),
        floats=("eps",),
    )


def _softcap_attention(type_: str) -> Case:
    import torch
    import triton.language as tl

    from quant.kernels.softcap_attention.kernel import BLOCK_L, step

    dot = {"bf16": tl.bfloat16, "fp16": tl.float16}[type_]
    block_s, warps, stages = step(torch.bfloat16)
    pasts = (f"stride_past_{t}_{of}" for t in "kv" for of in ("head", "token"))
    return Case(
        kernel="softcap_attention",
        variant=f"E=256 {type_}",
        pointers=dict.fromkeys(
            ("q_ptr", "k_ptr", "v_ptr", "past_k_ptr", "past_v_ptr", "cos_ptr", "sin_ptr", "out_ptr"),
            f"*{type_}",
        ),
        constants={
            "CAPPED": True, "DOT": dot, "PRECISION": "tf32x3", "E": 256, "BLOCK_L": BLOCK_L,
            "BLOCK_S": block_s,
        },
        warps=warps,
        stages=stages,
        instruction=r"(UTC)?H(G?)MMA",
        numbers=("L", "stride_q", "stride_k", "stride_v", "stride_out", *pasts),
        floats=("scale", "cap"),
    )  # fmt: skip


def _largest_of_map() -> Case:
    from quant.kernels.quantize_map.kernel import BLOCK, WARPS

    return Case(
        kernel="quantize_map",
        function="largest_of_map",
        variant="largest",
        pointers={"x_ptr": "*bf16", "largest_ptr": "*i32"},
        constants={"BLOCK": BLOCK},
        warps=WARPS,
        numbers=("values",),
    )


def _quantize_map(given: str) -> Case:
    from quant.kernels.quantize_map.kernel import BLOCK, WARPS

    known = given == "largest"
    return Case(
        kernel="quantize_map",
        variant=f"by {given}",
        pointers={"x_ptr": "*bf16", "scale_ptr": "*fp32", "q_ptr": "*i8"}
        | ({"largest_ptr": "*fp32"} if known else {}),
        constants={"BLOCK": BLOCK} | ({} if known else {"largest_ptr": None}),
        warps=WARPS,
        numbers=("values",),
    )


def _bias_activation(parts: str) -> Case:
    from quant.kernels.bias_activation.kernel import BLOCK, WARPS

    has_bias = "bias" in parts
    return Case(
        kernel="bias_activation",
        variant=parts,
        pointers={"x_ptr": "*bf16"} | ({"bias_ptr": "*bf16"} if has_bias else {}),
        constants={"SILU": "silu" in parts, "RELU": "relu" in parts, "BLOCK": BLOCK}
        | ({} if has_bias else {"bias_ptr": None}),
        warps=WARPS,
        numbers=("values", "C"),
    )


def _join_phases(N: int) -> Case:
    from quant.kernels.join_phases.kernel import WARPS, positions_and_block

    positions, block = positions_and_block(N)
    phases = {f"phase{i}_ptr": "*bf16" for i in range(4)}
    return Case(
        kernel="join_phases",
        variant=f"N={N}",
        pointers=phases | dict.fromkeys(("bias_ptr", "shortcut_ptr", "out_ptr"), "*bf16"),
        constants={"REPEATS": 2, "POSITIONS": positions, "BLOCK_N": block},
        warps=WARPS,
        numbers=("positions", "H", "W", "K", "N"),
    )


def _int8_product(
    kernel: str, tile: Any, parts: str, pointers: dict[str, str], **more: Any
) -> Case:
    """`odd` is for sizes that tiles do not divide: masks along K, rows of two pictures in a tile."""
    optional = {"bias_ptr": ("bias", "*bf16"), "residual_ptr": ("residual", "*bf16")}
    if kernel == "linear_w8a8":
        optional |= {
            "gate_ptr": ("gate", "*bf16"), "largest_ptr": ("largest", "*i32"),
            "smooth_ptr": ("smooth", "*fp32"),
        }  # fmt: skip
        more["constants"] |= {"GATE_PER_TILE": "odd" not in parts, "REMAINDERS": 1}
        more["constants"] |= {"EXTRA": tile.extra}
    present = {pointer: type_ for pointer, (part, type_) in optional.items() if part in parts}
    absent = {pointer: None for pointer in optional if pointer not in present}
    blocks = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": tile.group}
    constants = more.pop("constants") | absent | blocks
    return Case(
        kernel=kernel,
        variant=f"{tile.m}x{tile.width}x{tile.k} {tile.warps}w {tile.stages}s {parts}",
        pointers=pointers | present | {"out_ptr": "*bf16", "weight_scale_ptr": "*fp32"},
        constants=constants | {"SILU": "silu" in parts, "EVEN_K": "odd" not in parts},
        warps=tile.warps,
        stages=tile.stages,
        instruction=r"(UTC)?I(G?)MMA",
        **more,
    )


def _linear_w8a8(tile: Any, parts: str) -> Case:
    strides = tuple(f"stride_{name}" for name in ("q", "weight", "gate", "residual", "out"))
    return _int8_product(
        "linear_w8a8",
        tile,
        parts,
        {
            "q_ptr": "*bf16" if "floats" in parts else "*i8",
            "scale_ptr": "*fp32",
            "weight_ptr": "*i8",
        },
        constants={},
        numbers=("M", "N", "K", "tokens", *strides),
    )


def _conv3x3_w8a8(tile: Any, parts: str) -> Case:
    from quant.kernels.tiles import WIDE

    optional = {"shortcut_ptr": "*bf16", "largest_ptr": "*i32"}
    present = {name: t for name, t in optional.items() if name.removesuffix("_ptr") in parts}
    return _int8_product(
        "conv3x3_w8a8",
        tile,
        parts,
        {"q_ptr": "*i8", "act_scale_ptr": "*fp32", "weight_ptr": "*i8"} | present,
        constants={
            "BLOCKS_K": 512 // tile.k,
            "UPSAMPLED": "upsampled" in parts,
            "REPEATS": 2 if "shortcut" in parts else 0,
            "ONE_PICTURE": "odd" not in parts,
        }
        | {name: None for name in optional if name not in present},
        numbers=("M", "N", "K", "H", "W", "stride_out"),
        only_capability=90 if tile == WIDE else None,
    )


def _linear_w4a16(tile: Any, group_size: int) -> Case:
    import triton.language as tl

    return Case(
        kernel="linear_w4a16",
        variant=f"{tile.m}x{tile.n} {tile.warps}w {tile.stages}s g{group_size}",
        pointers={"x_ptr": "*bf16", "packed_ptr": "*u8", "scale_ptr": "*bf16", "out_ptr": "*bf16"},
        constants={
            "bias_ptr": None,
            "EVEN_K": True,
            "DOT": tl.bfloat16,
            "HALF": group_size // 2,
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
        },
        warps=tile.warps,
        stages=tile.stages,
        instruction=r"(UTC)?H(G?)MMA",
        numbers=("N", "K", "stride_x", "stride_out"),  # M is the length of a prompt: any
    )


def function_of(case: Case) -> Any:
    """Return the `triton.jit` function of a case."""
    module = importlib.import_module(f"quant.kernels.{case.kernel}.kernel")
    return getattr(module, f"{case.function or case.kernel}_kernel")


def targets_of(case: Case) -> dict[str, int | str]:
    """Targets that a case is compiled for, by the names that rows have."""
    if case.only_capability is not None:
        return {_name_of(case.only_capability): case.only_capability}
    able: list[int | str] = [t for t in CAPABILITIES if t >= case.first_capability]
    return {_name_of(target): target for target in (*able, HIP)}


def _name_of(target: int | str) -> str:
    return target if isinstance(target, str) else f"{target // 10}.{target % 10}"


def _constants(case: Case, target: int | str) -> dict[str, Any]:
    names = function_of(case).arg_names
    waits = {"DEPENDENT": _depends(case, target)} if "DEPENDENT" in names else {}
    on_hip = {k: v for k, v in _ON_HIP.items() if k in names}
    return case.constants | waits | (on_hip if isinstance(target, str) else {})


def _depends(case: Case, target: int | str) -> bool:
    """Return whether a kernel is compiled for launches that depend on the one before."""
    can_wait = "DEPENDENT" in function_of(case).arg_names
    return can_wait and isinstance(target, int) and divmod(target, 10) >= FIRST_CAPABILITY


def _options(case: Case, target: int | str) -> dict[str, Any]:
    stages = min(case.stages, 2) if isinstance(target, str) else case.stages
    warps = case.warps if isinstance(target, str) else case.warps_on.get(target, case.warps)
    options: dict[str, Any] = {"num_warps": warps, "num_stages": stages}
    return options | ({"launch_pdl": True} if _depends(case, target) else {})


def compiled(case: Case, target: int | str) -> dict[str, Any]:
    """Compile one case for a compute capability (89 is 8.9) or an AMD architecture, and read its machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    on_hip = isinstance(target, str)
    function, constants = function_of(case), _constants(case, target)
    names = function.arg_names
    signature = {name: case.pointers.get(name, "i32") for name in names}
    signature |= dict.fromkeys(case.floats, "fp32") | dict.fromkeys(constants, "constexpr")
    aligned = {*case.pointers, *case.numbers}
    result = triton.compile(
        ASTSource(
            function,
            signature,
            constants,
            {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned},
        ),
        target=GPUTarget("hip", target, 64) if on_hip else GPUTarget("cuda", target, 32),
        options=_options(case, target),
    )
    found = of_amd(result.asm["amdgcn"]) if on_hip else of_nvidia(result.asm["cubin"])
    shared = result.metadata.shared
    return {
        "kernel": case.kernel,
        "variant": case.variant,
        "capability": _name_of(target),
        "registers": found.registers,
        "stack_bytes": found.stack_bytes,
        "spill_instructions": found.spills,
        "shared_bytes": shared,
        "tensor_cores": found.tensor_cores,
        "instructions": found.mix,
        "waits_first": found.waits_first,
        "problems": _problems(case, found, shared, target),
    }


def _problems(case: Case, found: MachineCode, shared_bytes: int, target: int | str) -> list[str]:
    problems, on_hip = [], isinstance(target, str)
    if _depends(case, target) and not found.waits_first:
        problems.append("reads before it waits")
    if found.stack_bytes or found.spills:
        problems.append("registers spill")
    if shared_bytes > (_SHARED_OF_HIP if on_hip else SHARED_BYTES):
        problems.append("shared memory does not fit")
    wanted = "V_MFMA" if on_hip else case.instruction
    if case.instruction and not any(re.match(wanted, name) for name in found.tensor_cores):
        problems.append("no tensor cores")
    return problems


def _row(case: Case, target: int | str) -> dict[str, Any]:
    """Compile for one target; for AMD's, what its compiler refuses is a problem and no end."""
    found = attempt(lambda: compiled(case, target)) if target == HIP else compiled(case, target)
    if not isinstance(found, Failure):
        return found
    return {
        "kernel": case.kernel, "variant": case.variant, "capability": target, "registers": 0,
        "stack_bytes": 0, "spill_instructions": 0, "shared_bytes": 0, "tensor_cores": [],
        "instructions": {}, "waits_first": False, "problems": [f"does not compile ({found.reason})"],
    }  # fmt: skip


def source_of(case: Case, target: int | str) -> str:
    """Digest what a row depends on: the kernel's source and what it calls, constants, options, Triton's version."""
    import triton

    constants = {name: str(value) for name, value in _constants(case, target).items()}
    given = {
        "pointers": sorted(case.pointers.items()), "constants": sorted(constants.items()),
        "numbers": sorted(case.numbers), "floats": sorted(case.floats), "target": target,
        "triton": triton.__version__,
    }  # fmt: skip
    return digest_of(function_of(case), given | _options(case, target))


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["kernel"], row["variant"], row["capability"]


@cache
def _by_name() -> dict[str, Case]:
    return {case.name: case for case in cases()}


def _task(name: str, target: int | str) -> dict[str, Any]:
    """Return the row of a case by its name, in a process of the pool."""
    case = _by_name()[name]
    return _row(case, target) | {"source": source_of(case, target)}


def read_rows() -> dict[tuple[str, str, str], dict[str, Any]]:
    """Rows that are kept, by kernel, variant and target."""
    return {_key(row): row for row in json.loads(RESULT.read_text(encoding="utf-8"))["kernels"]}


def main(
    only: Annotated[
        str, typer.Option(help="Cases whose names contain one of these, by commas.")
    ] = "",
    again: Annotated[bool, typer.Option(help="Compile also what is kept and unchanged.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
) -> None:
    """Compile what is new or changed, print, and keep it after each."""
    wanted, kept = only.split(","), read_rows()
    tasks = [
        (case.name, target)
        for case in cases()
        for name, target in targets_of(case).items()
        if any(word in case.name for word in wanted)
        and (
            again
            or kept.get((case.kernel, case.variant, name), {}).get("source")
            != source_of(case, target)
        )
    ]
    print(f"{'kernel and tile':<58}{'cc':>7}{'regs':>6}{'stack':>7}{'shared':>8}  tensor cores")
    # Of their own interpreters: a copy of this process would share its threads' locks.
    with ProcessPoolExecutor(
        jobs or os.cpu_count(), mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        for done in as_completed([pool.submit(_task, *task) for task in tasks]):
            row = done.result()
            kept[_key(row)] = row
            _keep(kept)
            print(
                f"{row['kernel'] + ' ' + row['variant']:<58}{row['capability']:>7}{row['registers']:>6}"
                f"{row['stack_bytes']:>7}{row['shared_bytes']:>8}  "
                f"{' '.join(row['tensor_cores'] + row['problems'])}",
                flush=True,
            )
    _keep(kept)
    broken = [row for row in kept.values() if row["problems"] and row["capability"] != HIP]
    raise typer.Exit(int(bool(broken)))


def _keep(rows: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    import triton

    record("kernels-compile", {
        "benchmark": "kernels_compile",
        "date": date.today().isoformat(),
        "triton": triton.__version__,
        "kernels": _in_order(rows),
    })  # fmt: skip


def _in_order(kept: dict[tuple[str, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the cases that there are, in their order."""
    keys = [
        (case.kernel, case.variant, name)
        for case in _by_name().values()
        for name in targets_of(case)
    ]
    return [kept[key] for key in keys if key in kept]


if __name__ == "__main__":
    typer.run(main)
