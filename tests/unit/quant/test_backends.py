"""Every kernel against the layer's reference, and the choice among them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quant import primitives
from quant.backends import cpu, libraries, timing
from quant.backends.dispatch import accelerate_, kernel_for, pack_all, usable_kernels
from quant.backends.kernel import Kernel
from quant.backends.measurement import Probe, measure
from quant.backends.timing import best_seconds, fastest
from quant.config import QuantConfig
from quant.installed import is_installed
from quant.layers import QuantConv2d, QuantLinear

CPU = torch.device("cpu")
W8A8, W8A16 = QuantConfig(act_bits=8), QuantConfig()
W4 = QuantConfig(weight_bits=4, group_size=64)
LINEAR_8 = [k for k in cpu.KERNELS if k.layer is QuantLinear and "w8a8" in k.schemes]
SHAPES = [(1, 64, 48), (7, 100, 33), (300, 1152, 1152)]


def linear(K: int, N: int, config: QuantConfig, *, bias: bool = True) -> QuantLinear:
    generator = torch.Generator().manual_seed(K + N)
    weight = torch.randn(N, K, generator=generator)
    values = torch.randn(N, generator=generator) if bias else None
    smooth = torch.rand(K, generator=generator) + 0.5 if config.smooth else None
    return QuantLinear.from_weight(weight, values, config, smooth_K=smooth)


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def is_exact(kernel: Kernel) -> bool:
    limits = {
        "onednn": cpu._onednn_weight_max, "onednn, 1x1": cpu._as_conv_weight_max,
        "fbgemm": cpu._fbgemm_weight_max,
    }  # fmt: skip
    return kernel.name not in limits or limits[kernel.name]() == 127


@pytest.mark.parametrize(("M", "K", "N"), SHAPES)
@pytest.mark.parametrize("kernel", LINEAR_8, ids=lambda k: k.name)
def test_8_bit_kernels(kernel: Kernel, M: int, K: int, N: int) -> None:
    """Equal integers give equal floats; where 8 bits would saturate, 7-bit weights stay close."""
    if not kernel.is_available():
        pytest.skip(f"{kernel.name} is not in this torch")
    for config, bias in ((W8A8, True), (W8A8, False), (replace(W8A8, smooth=True), True)):
        layer = linear(K, N, config, bias=bias)
        x = inputs(2, M, K)
        x[0, 0] = 0
        expected = layer.reference(x)
        out = kernel.run(x, kernel.pack(layer), layer)
        if is_exact(kernel):
            assert torch.equal(out, expected)
        else:
            assert (out - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("kernel", LINEAR_8, ids=lambda k: k.name)
def test_saturating_integers(kernel: Kernel) -> None:
    """All inputs and weights at their largest: what 16-bit sums would spoil."""
    if not kernel.is_available():
        pytest.skip(f"{kernel.name} is not in this torch")
    layer = QuantLinear.from_quantized(
        torch.full((32, 128), 127, dtype=torch.int8), torch.ones(32), None, W8A8
    )
    out = kernel.run(torch.ones(4, 128), kernel.pack(layer), layer)
    torch.testing.assert_close(out, torch.full((4, 32), 127.0 * 128))


def saturating(q_MK: torch.Tensor, packed: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """A product as AVX2 without VNNI makes it: sums of pairs in 16 bits."""
    q_NK, scale_N = packed
    pairs = ((q_MK.long() + 128)[:, None, :] * q_NK.long()).unflatten(-1, (-1, 2)).sum(-1)
    total = pairs.clamp(-(2**15), 2**15 - 1).sum(-1)
    return (total - 128 * q_NK.long().sum(dim=1)) * scale_N


def pack(q_NK: torch.Tensor, scale_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return q_NK, scale_N


def test_reduced_range_is_exact_on_its_integers() -> None:
    """A product that saturates gets 7-bit weights, and is exact with them."""
    assert cpu._largest_exact(pack, saturating) == cpu.INT7_MAX
    layer, x = linear(256, 64, W8A8), inputs(9, 256)
    expected = layer.reference(x)
    out = cpu._run_int8(x, cpu._weight_up_to(cpu.INT7_MAX, layer), layer, saturating)
    assert (out - expected).norm() < 0.02 * expected.norm()


def test_outliers_of_inputs_keep_eight_bits() -> None:
    """Weights give the bit: a token with a value ten times the others loses no more than without the outlier."""
    layer, x = linear(256, 64, W8A8, bias=False), inputs(9, 256)
    x[:, 7] = 30
    expected = layer.reference(x)
    out = cpu._run_int8(x, cpu._weight_up_to(cpu.INT7_MAX, layer), layer, saturating)
    assert (out - expected).norm() < 0.02 * expected.norm()


def test_a_product_that_is_never_exact_is_refused() -> None:
    with pytest.raises(RuntimeError, match="not exact"):
        cpu._largest_exact(pack, lambda q, packed: torch.zeros(24, 48))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smooth", [True, False])
def test_expanded_8_bit_weights(dtype: torch.dtype, smooth: bool) -> None:
    kernel = next(k for k in cpu.KERNELS if "w8a16" in k.schemes)
    if not kernel.is_available():
        pytest.skip("torch without oneDNN")
    layer = linear(1152, 33, replace(W8A16, smooth=smooth))
    x = inputs(2, 7, 1152).to(dtype)
    expected = layer.reference(x)
    out = kernel.run(x, kernel.pack(layer), layer)
    assert out.dtype == dtype
    assert (out - expected).float().norm() < 0.01 * expected.float().norm()


def test_kernels_on_a_cpu_with_avx2_alone() -> None:
    """Types and products that oneDNN has no instructions for there; told so, it does without on any CPU."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-q", "-k", "weights or 8_bit_kernels or saturating"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_expanded_in_blocks(dtype: torch.dtype) -> None:
    layer = linear(40, 33, W8A16)
    expected = (layer.qweight.float() * layer.scale[:, None]).to(dtype)
    assert torch.equal(layer.dequantize(dtype), expected)
    for block in (1, 200, 10_000):
        found = primitives.dequantize_per_channel(layer.qweight, layer.scale, dtype, block=block)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("K", [64, 98, 100, 192])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_4_bit_weights(group: int, K: int, dtype: torch.dtype) -> None:
    layer = linear(K, 40, QuantConfig(weight_bits=4, group_size=group))
    expected = layer.dequantize(dtype)
    for block in (7 * K, cpu._EXPANDED):  # a few channels at a time, and all
        expanded = cpu._times_expanded(torch.eye(K, dtype=dtype), layer, block=block).T
        torch.testing.assert_close(expanded, expected, rtol=0.01, atol=0)
        if dtype == torch.float32:
            assert torch.equal(expanded, expected)
    x = inputs(2, 5, K).to(dtype)
    expected = layer.reference(x)
    for kernel in (k for k in cpu.KERNELS if "w4a16" in k.schemes):
        out = kernel.run(x, kernel.pack(layer), layer)
        assert out.dtype == dtype
        # Few columns round worse than many.
        most = 0.03 if kernel.name == "expanded, int8" else 0.01
        assert (out - expected).float().norm() < most * expected.float().norm(), kernel.name


def test_8_bit_inputs_only_where_a_model_bears_them() -> None:
    """The kernel is the fastest by far here, but a text encoder must not get it."""
    layer = linear(1152, 64, W4)
    only = [kernel for kernel in cpu.KERNELS if kernel.name == "expanded, int8"]
    if not only[0].is_available():
        pytest.skip("no exact integer product in this torch")
    assert kernel_for(layer, CPU, backend="native", kernels=only) is None
    allowed = kernel_for(layer, CPU, backend="native", kernels=only, allow_int8_activations=True)
    assert allowed is only[0]


def test_int_mm_that_saturates_gets_weights_of_7_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(q_MK: torch.Tensor, q_KN: torch.Tensor) -> torch.Tensor:
        products = (q_MK.long()[:, None, :] + 128) * q_KN.long().T[None]
        total = products.unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1).sum(-1)
        return (total - 128 * q_KN.long().sum(dim=0)).int()

    layer, x = linear(256, 64, W4), inputs(9, 256)
    expected = layer.reference(x)
    monkeypatch.setattr(torch, "_int_mm", saturating)
    cpu._int_mm_weight_max.cache_clear()
    try:
        assert cpu._int_mm_weight_max() == cpu.INT7_MAX
        assert not cpu.int_mm_is_exact()
        out = cpu._int4_int8_run(x, cpu._int4_int8_pack(layer), layer)
    finally:
        cpu._int_mm_weight_max.cache_clear()
    assert (out - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution(static: bool, stride: int) -> None:
    conv = nn.Conv2d(24, 20, 3, stride=stride, padding=1)
    x = inputs(2, 24, 10, 14).contiguous(memory_format=torch.channels_last)
    scale = (x.abs().max() / 127).clone() if static else None
    layer = QuantConv2d.from_conv(conv, replace(W8A8, static_act=static), act_scale=scale)
    kernel = next(k for k in cpu.KERNELS if k.layer is QuantConv2d)
    expected = layer.reference(x)
    out = kernel.run(x, kernel.pack(layer), layer)
    tolerance = 1e-5 if is_exact(kernel) else 0.03
    assert (out - expected).norm() < tolerance * expected.norm()
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", libraries.KERNELS, ids=lambda k: k.backend)
def test_libraries(kernel: Kernel) -> None:
    layer = linear(128, 96, W8A8 if "w8a8" in kernel.schemes else W8A16)
    x = inputs(2, 17, 128)
    if kernel.backend == "torchao" and not cpu.int_mm_is_exact():
        with pytest.raises(RuntimeError, match="saturates"):
            kernel.pack(layer)
        return
    out = kernel.run(x, kernel.pack(layer), layer)
    torch.testing.assert_close(out, layer.reference(x), rtol=1e-4, atol=1e-3)


def fake(name: str, factor: float) -> Kernel:
    return Kernel(
        name=name, backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cpu",),
        pack=lambda layer: None, run=lambda x, packed, layer: factor * layer.reference(x),
    )  # fmt: skip


def test_wrong_kernels_are_never_chosen() -> None:
    def breaks(x: torch.Tensor, packed: object, layer: QuantLinear) -> torch.Tensor:
        raise RuntimeError("could not create a primitive\ndetails")

    kernels = (fake("doubles", 2.0), fake("nan", float("nan")), replace(fake("x", 1), run=breaks))
    results = measure(linear(128, 64, W8A8), CPU, kernels)
    assert [r.seconds is None for r in results] == [True, True, True, False]
    assert results[2].note == "could not create a primitive"
    assert kernel_for(linear(128, 64, W8A8), CPU, kernels=kernels) is None


def test_slow_kernels_are_not_timed() -> None:
    impatient = Probe(too_slow_s=-1.0)
    results = measure(linear(128, 64, W8A8), CPU, [fake("slow", 1.0)], probe=impatient)
    assert results[0].note == "too slow"


def counted(name: str, seconds: float, rows: int = 0) -> tuple[Kernel, list[int]]:
    """A kernel that works for so long on inputs of more than so many rows, and the rows of its calls."""
    calls: list[int] = []

    def run(x: torch.Tensor, packed: object, layer: QuantLinear) -> torch.Tensor:
        calls.append(len(x))
        ends = time.process_time() + (seconds if len(x) > rows else 0)
        while time.process_time() < ends:
            pass
        return layer.reference(x)

    return replace(fake(name, 1), run=run), calls


@pytest.mark.parametrize(
    ("rows", "called_with"), [(0, [8, 8]), (8, [8, 8, 512])], ids=["always", "with many rows"]
)
def test_a_hopeless_kernel_is_not_called_again(rows: int, called_with: list[int]) -> None:
    """On some CPUs `torch._int_mm` takes two seconds where oneDNN takes a thirtieth."""
    quick, _ = counted("quick", 0.0)
    slow, calls = counted("slow", 0.3, rows)
    results = measure(linear(128, 64, W8A8), CPU, [quick, slow], with_reference=False)
    assert results[0].seconds is not None
    assert (results[1].seconds, results[1].note) == (None, "too slow")
    assert calls == called_with


def test_a_slower_computation_is_timed_once() -> None:
    turns: list[str] = []

    def slow() -> None:
        turns.append("b")
        ends = time.process_time() + 0.1
        while time.process_time() < ends:
            pass

    quick, slower = best_seconds(
        [lambda: turns.append("a"), slow], CPU, turn_s=0, budget_s=float("inf")
    )
    assert quick < slower
    assert turns.count("b") == 1
    assert turns.count("a") == 1 + timing._ROUNDS


def test_a_budget_ends_the_rounds() -> None:
    runs: list[int] = []
    best_seconds([lambda: runs.append(1)], CPU, turn_s=0, budget_s=0)
    assert len(runs) == 1 + timing._LEAST_ROUNDS


def test_a_measurement_is_announced_and_only_then(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        kernel_for(
            linear(64, 32, W8A8), CPU, verdicts=tmp_path / "kernels.json",
            before_measuring=lambda: said.append("measuring"),
        )  # fmt: skip
    assert said == ["measuring"]


def test_libraries_are_tried_where_nothing_of_ours_is() -> None:
    layer = linear(64, 32, W8A8)
    assert {kernel.backend for kernel in usable_kernels(layer, CPU)} == {"native"}
    if is_installed("torchao"):
        assert [kernel.backend for kernel in usable_kernels(layer, CPU, "torchao")] == ["torchao"]
    usable = usable_kernels(layer, CPU, kernels=libraries.KERNELS)
    assert {kernel.backend for kernel in usable} == (
        {"torchao"} if is_installed("torchao") else set()
    )


def test_other_programs_do_not_decide() -> None:
    """A kernel that had to wait for its turn is still the faster one."""

    def waits(x: torch.Tensor, packed: object, layer: QuantLinear) -> torch.Tensor:
        time.sleep(0.02)
        return layer.reference(x)

    def works(x: torch.Tensor, packed: object, layer: QuantLinear) -> torch.Tensor:
        return torch.stack([layer.reference(x) for _ in range(10)])[0]

    kernels = [
        replace(fake("waits", 1), run=waits),
        replace(fake("works", 1), run=works),
    ]
    waiting, working = measure(linear(128, 64, W8A8), CPU, kernels, with_reference=False)
    assert waiting.seconds is not None
    assert working.seconds is not None
    assert waiting.seconds < working.seconds


def test_computations_take_turns() -> None:
    """So that a machine that becomes busy is busy for all of them."""
    turns: list[str] = []
    both = [lambda: turns.append("a"), lambda: turns.append("b")]
    times = best_seconds(both, CPU, turn_s=0, budget_s=float("inf"))
    assert len(times) == 2
    assert "".join(turns) == "ab" + "ab" * timing._ROUNDS


def test_short_computations_fill_a_turn(passes: Callable[[float], None]) -> None:
    """The system brings CPU seconds of other cores' threads up to date every few milliseconds only."""
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        passes(0.002)

    best_seconds([run], CPU)
    each = round(timing._TURN_S / 0.002)
    assert len(runs) - 1 in range(each * timing._ROUNDS, (each + 1) * timing._ROUNDS + 1)


# One kernel that is right, the reference not being tried with "native": it is chosen, whatever else the machine does.
ONLY = fake("only", 1.0)
PATIENT = Probe(rows=32, in_features=64, out_features=64, too_slow_s=float("inf"))


def chosen_once(verdicts: Path) -> tuple[Kernel | None, bool]:
    """The kernel of a layer, and whether kernels were measured for it."""
    measured: list[bool] = []
    kernel = kernel_for(
        linear(64, 32, W8A8), CPU, backend="native", verdicts=verdicts, kernels=[ONLY], probe=PATIENT,
        before_measuring=lambda: measured.append(True),
    )  # fmt: skip
    return kernel, bool(measured)


def test_verdict_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "cache/kernels.json"
    assert chosen_once(path) == (ONLY, True)
    assert path.is_file()
    assert chosen_once(path) == (ONLY, False)
    path.write_text("{ damaged")
    assert chosen_once(path) == (ONLY, True)
    (tmp_path / "file").write_text("")
    assert chosen_once(tmp_path / "file/kernels.json") == (ONLY, True)


def test_the_first_that_is_right_where_no_verdict_can_be_kept(tmp_path: Path) -> None:
    """Whatever the clock says: the next process would measure something else, and a seed be two pictures."""
    (tmp_path / "file").touch()
    second = replace(ONLY, name="second")
    wrong = replace(ONLY, name="wrong", run=lambda x, packed, layer: 2 * ONLY.run(x, packed, layer))
    for kernels, right in (([second, ONLY], second), ([ONLY, second], ONLY), ([wrong, ONLY], ONLY)):
        kernel = kernel_for(
            linear(64, 32, W8A8), CPU, backend="native", verdicts=tmp_path / "file/kernels.json",
            kernels=kernels, probe=PATIENT,
        )  # fmt: skip
        assert kernel == right


@pytest.mark.parametrize("deep", [False, True])
def test_a_verdict_that_helps_nobody(tmp_path: Path, deep: bool) -> None:
    """A kernel that is not known here is measured again; it is no reason for the slow reference."""
    path = tmp_path / "kernels.json"
    assert chosen_once(path) == (ONLY, True)
    [key] = json.loads(path.read_text())
    path.write_text("[" * 10**5 if deep else json.dumps({key: "gone"}))
    assert chosen_once(path) == (ONLY, True)
    assert json.loads(path.read_text())[key] == "only"


def test_a_folder_in_place_of_the_verdicts(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    path.mkdir()
    kernel_for(linear(64, 32, W8A8), CPU, verdicts=path)
    assert list(tmp_path.iterdir()) == [path]


def test_accelerate() -> None:
    model = nn.Sequential(linear(64, 64, W8A8), linear(64, 64, W4), linear(64, 64, W8A16))
    x = inputs(3, 64)
    expected = model(x)
    chosen = accelerate_(model, CPU)
    assert set(chosen) == {"linear w8a8", "linear w4a16-g64", "linear w8a16"}
    assert (model(x) - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("rows", [1, 2, 77])
@pytest.mark.parametrize("largest", [63, 127])
def test_both_products_of_onednn_give_the_same_bits(rows: int, largest: int) -> None:
    """So that which of them is the faster one here changes no picture."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (rows, 96), generator=generator).to(torch.int8)
    weight = torch.randint(-largest, largest + 1, (40, 96), generator=generator).to(torch.int8)
    scale = torch.rand(40, generator=generator) + 0.5
    one = cpu._onednn_product(x, cpu._onednn_pack(weight, scale))
    other = cpu._as_conv_product(x, cpu._as_conv_pack(weight, scale))
    assert other.is_contiguous()
    assert torch.equal(one, other)
    assert cpu._as_conv_weight_max() == cpu._onednn_weight_max()


def named(name: str, pack: Callable[[QuantLinear], object]) -> Kernel:
    return Kernel(
        name=name, backend="native", schemes=("w8a8",), layer=QuantLinear, devices=("cpu",),
        run=lambda x, packed, layer: packed, pack=pack, frees_weight=True,
    )  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_layers_are_packed_in_threads_few_at_a_time(threads: int) -> None:
    """Each gets what was made of its own weight; few are there twice, and this thread attaches them."""
    layers = [linear(64, 64, W8A8) for _ in range(12)]
    expected = [layer.qweight.sum() for layer in layers]
    open_now: list[int] = []  # layers that are packed and still hold their weight
    modes: set[bool] = set()

    def pack(layer: QuantLinear) -> torch.Tensor:
        modes.add(torch.is_inference_mode_enabled())
        return layer.qweight.sum()

    def after_packing() -> None:
        freed = sum(layer.qweight.is_meta for layer in layers)
        open_now.append(freed)

    kernel = named("sum", pack)
    with torch.inference_mode():
        pack_all(((layer, kernel) for layer in layers), threads, after_packing)
    assert open_now == list(range(1, 13))
    assert modes == {True}
    assert [layer(torch.empty(1)) for layer in layers] == expected


def that_takes(name: str, *, pack: float, run: float, wrong: float = 0.0) -> Kernel:
    """A kernel of so many seconds of the processor, whose results are `wrong` by that share."""

    def work(seconds: float) -> None:
        ends = time.process_time() + seconds
        while time.process_time() < ends:
            pass

    def multiply(x: torch.Tensor, packed: object, layer: QuantLinear) -> torch.Tensor:
        work(run)
        return layer.reference(x) * (1 + wrong)

    kernel = replace(named(name, lambda layer: work(pack)), run=multiply)
    return kernel if pack else replace(kernel, frees_weight=False)


def chosen_of(kernels: Sequence[Kernel], **options: Any) -> str:
    probe = Probe(rows=8, in_features=64, out_features=64)
    layer = linear(64, 64, W8A8)
    kernel = kernel_for(layer, CPU, backend="native", kernels=kernels, probe=probe, **options)
    assert kernel is not None
    return kernel.name


@pytest.mark.parametrize("order", [1, -1])
def test_packing_counts_when_kernels_are_chosen(order: int) -> None:
    """Of two that multiply equally fast, the one is used that needs no other order of the weight."""
    kernels = (
        that_takes("slow to pack", pack=0.1, run=0.005), that_takes("ready", pack=0, run=0.005),
    )  # fmt: skip
    assert chosen_of(kernels[::order]) == "ready"


@pytest.mark.parametrize("order", [1, -1])
def test_for_few_calls_packing_is_a_part_of_them(order: int, tmp_path: Path) -> None:
    """And the answers for few and for many calls are kept side by side."""
    kernels = (
        that_takes("packs", pack=0.2, run=0.005), that_takes("ready", pack=0, run=0.015),
    )[::order]  # fmt: skip
    verdicts = tmp_path / "kernels.json"
    for calls, name in ((None, "packs"), (1, "ready"), (4, "ready"), (20, "packs"), (2, "ready")):
        assert chosen_of(kernels, calls=calls, verdicts=verdicts) == name
    assert len(json.loads(verdicts.read_text())) == 2


def test_for_few_calls_the_bits_stay() -> None:
    """What is quick to start rounds differently here: the same seed would draw two pictures."""
    kernels = (
        that_takes("packs", pack=0.2, run=0.005),
        that_takes("ready", pack=0, run=0.015, wrong=1e-5),
    )
    assert chosen_of(kernels, calls=1) == "packs"


def test_all_exact_products_give_the_same_bits() -> None:
    """On which the choice for few calls relies."""
    layer, x = linear(96, 40, W8A8), inputs(7, 96)
    exact = [
        kernel for kernel in usable_kernels(layer, CPU)
        if kernel.name not in {"onednn", "onednn, 1x1"} or cpu._onednn_weight_max() == 127
        if kernel.name != "fbgemm" or cpu._fbgemm_weight_max() == 127
    ]  # fmt: skip
    outputs = [kernel.run(x, kernel.pack(layer), layer) for kernel in exact]
    assert all(torch.equal(one, outputs[0]) for one in outputs)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_layer_that_cannot_be_packed_is_an_error(threads: int) -> None:
    def pack(layer: QuantLinear) -> object:
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        pack_all([(linear(64, 64, W8A8), named("none", pack))] * 3, threads, lambda: None)


def test_layers_without_weights_decide_nothing() -> None:
    """A decoder is loaded without its encoder, whose layers come first."""
    with torch.device("meta"):
        absent = QuantLinear(64, 48, bias=False, config=W4)
    model = nn.Sequential(absent, linear(64, 48, W8A8))
    measured: list[int] = []
    chosen = accelerate_(model, CPU, before_measuring=lambda: measured.append(1))
    assert (list(chosen), measured) == (["linear w8a8"], [1])


def test_reference_backend_changes_nothing() -> None:
    model = nn.Sequential(linear(64, 64, W8A8))
    assert accelerate_(model, CPU, backend="reference") == {"linear w8a8": "reference"}
    assert model[0].qweight.device.type == "cpu"


def test_backend_without_a_kernel() -> None:
    """quanto multiplies no 8-bit inputs; torchao does."""
    if not cpu.int_mm_is_exact():
        pytest.skip("torchao's product saturates here")
    layers = linear(64, 64, W8A8), linear(64, 64, W8A16)
    for backend, kinds in (("quanto", {"linear w8a16"}), ("torchao", {"linear w8a8"})):
        chosen = accelerate_(nn.Sequential(*layers), CPU, backend=backend)
        assert {kind for kind, name in chosen.items() if name.startswith(backend)} == kinds


def test_computations_are_compared_at_a_size_that_takes_a_while(
    passes: Callable[[float], None],
) -> None:
    """At small sizes both take as long as starting them."""
    tried: list[int] = []

    def runs_at(size: int) -> list[Callable[[], object]]:
        tried.append(size)
        seconds = 1e-3 if size == 16 else 1e-5
        return [lambda: passes(2 * seconds), lambda: passes(seconds)]

    wall = torch.device("meta")  # whose clock is the one on the wall
    assert fastest(runs_at, (1, 16, 256), wall) == 1
    assert tried == [1, 16]
    tried.clear()
    fastest(runs_at, (1, 2), wall)
    assert tried == [1, 2]
