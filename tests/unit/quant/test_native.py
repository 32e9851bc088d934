"""Our C code for CPUs: the same integers as torch, floats that differ by rounding, and no use where it cannot be right."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from quant import primitives
from quant.backends import cpu
from quant.backends.attempt import Failure
from quant.config import QuantConfig
from quant.layers import QuantConv2d, QuantLinear
from quant.native import library, rows
from sana_cli.models.dc_ae import ChannelRMSNorm
from sana_cli.models.layers import RMSNorm, gated_unit, silu_
from sana_cli.models.sana_transformer import modulated_norm

pytestmark = pytest.mark.skipif(
    not library.is_for_this_processor() or library._compiler() is None,
    reason="no C compiler for it here",
)
TYPES = pytest.mark.parametrize("dtype", rows.TYPES, ids=["fp32", "bf16"])
# fp32: another order of sums, another exponential. bf16: rounded once, where torch rounds after every operation.
NEAR = {torch.float32: {"atol": 2e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 0.04, "rtol": 0.03}}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = library.find_library(tmp_path_factory.mktemp("native"))
    assert not isinstance(found, Failure), found
    return rows._declared(found)


@pytest.fixture(autouse=True)
def with_library(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rows, "_library", compiled)
    with torch.inference_mode():
        yield


def without_library(run: Any) -> Any:
    with rows.switched_off():
        return run()


def both(run: Any) -> tuple[Any, Any]:
    """By the library, and by torch."""
    return run(), without_library(run)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@TYPES
@pytest.mark.parametrize(("M", "K"), [(1, 1), (3, 17), (300, 1152), (7, 31_000)])
@pytest.mark.parametrize("offset", [0, 128])
def test_tokens_get_the_integers_of_torch(dtype: torch.dtype, M: int, K: int, offset: int) -> None:
    x_MK = random(M, K, dtype=dtype) * torch.logspace(-20, 20, M)[:, None].to(dtype)
    x_MK[M // 2] = 0
    if M > 3:
        x_MK[0] = 190 * 2.0**-149  # a scale of one bit
    smooth_K = random(K).abs() + 0.5
    for smooth in (None, smooth_K):
        q, scale = cpu.quantize_tokens(x_MK, smooth, offset=offset)
        expected, scales = primitives.quantize_per_token(
            x_MK.float() * (1 if smooth is None else smooth)
        )
        assert q.dtype == (torch.uint8 if offset else torch.int8)
        assert torch.equal(q.int() - offset, expected.int())
        assert torch.equal(scale, scales)


def test_rows_may_lie_apart() -> None:
    wide = random(5, 300)
    assert rows.runs(wide[:, 100:200])
    for ours, expected in zip(*both(lambda: cpu.quantize_tokens(wide[:, 100:200])), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("bias", [None, random(33, seed=2), random(33, seed=2).bfloat16()])
def test_products_end_as_those_of_torch(bias: Tensor | None) -> None:
    product, scale = random(9, 33), random(9, seed=1).abs()
    for dtype in rows.TYPES:
        ours = rows.finish_product(product, scale, bias, dtype)
        assert torch.equal(ours, primitives.finish_product(product.clone(), scale, bias).to(dtype))


@TYPES
@pytest.mark.parametrize("scheme", ["w8a8", "w4a16-g64"])
@pytest.mark.parametrize("rows_of_x", [1, 8, 130])
def test_linear_layers(dtype: torch.dtype, scheme: str, rows_of_x: int) -> None:
    config = QuantConfig.parse(scheme)
    assert config is not None
    layer = QuantLinear.from_weight(random(96, 128), random(96, seed=1), config)
    x = random(2, rows_of_x, 128, seed=3).to(dtype)
    for kernel in cpu.KERNELS:
        if kernel.supports(layer, x.device):
            packed = kernel.pack(layer)
            ours, torchs = both(lambda kernel=kernel, packed=packed: kernel.run(x, packed, layer))
            assert torch.equal(ours, torchs), kernel.name


@TYPES
def test_weights_are_those_of_torch(dtype: torch.dtype) -> None:
    config = QuantConfig.parse("w8a16")
    assert config is not None
    for layer in (
        QuantLinear.from_weight(random(70, 130), None, config),
        QuantConv2d.from_conv(nn.Conv2d(24, 40, 3), config),
    ):
        assert torch.equal(*both(lambda layer=layer: layer.dequantize(dtype)))


@TYPES
@pytest.mark.parametrize("static", [False, True])
def test_convolutions_of_integers(dtype: torch.dtype, static: bool) -> None:
    config = QuantConfig.parse("w8a8-static" if static else "w8a8")
    assert config is not None
    conv = nn.Conv2d(24, 40, 3, padding=1)
    scale = torch.tensor(0.01) if static else None
    layer = QuantConv2d.from_conv(conv, config, act_scale=scale)
    x = random(2, 24, 9, 7).to(dtype).contiguous(memory_format=torch.channels_last)
    packed = cpu._conv_pack(layer)
    assert torch.equal(*both(lambda: cpu._conv_run(x, packed, layer)))


@TYPES
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_norms(dtype: torch.dtype, inplace: bool, bias: bool) -> None:
    norm = RMSNorm(100, bias=bias).to(dtype)
    norm.weight.data.copy_(random(100, seed=5))
    wide = random(3, 11, 300, dtype=dtype)
    for residual in (None, random(3, 11, 100, dtype=dtype, seed=1)):
        ours, torchs = both(
            lambda residual=residual: norm(wide[..., 100:200].clone(), residual, inplace=inplace)
        )
        assert_close(ours, torchs, **NEAR[dtype])
        apart = norm(wide[..., 100:200], residual)  # a third of each row, and nobody else's values
        assert_close(apart, torchs, **NEAR[dtype])
    assert_close(wide, random(3, 11, 300, dtype=dtype), rtol=0, atol=0)


def test_a_norm_of_a_map_keeps_its_order() -> None:
    norm = ChannelRMSNorm(40)
    x = random(2, 40, 9, 7).contiguous(memory_format=torch.channels_last)
    ours, torchs = both(lambda: norm(x, x))
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_close(ours, torchs, **NEAR[torch.float32])


@TYPES
@pytest.mark.parametrize("pictures", [1, 3])
def test_modulated_norms(dtype: torch.dtype, pictures: int) -> None:
    x, modulation = random(3, 17, 96, dtype=dtype), random(pictures, 6, 96, dtype=dtype, seed=1)
    shift, scale = modulation.chunk(6, dim=1)[1:3]
    ours, torchs = both(lambda: modulated_norm(x, shift, scale, 1e-6))
    assert_close(ours, torchs, **NEAR[dtype])


def test_activations() -> None:
    x = torch.cat([torch.linspace(-200, 200, 4001), torch.tensor([0.0, -0.0, 1e30, -1e30])])
    x = x.bfloat16().repeat(2, 2)
    ours, torchs = both(lambda: silu_(x.clone()))
    assert_close(ours.float(), torchs.float(), rtol=2**-7, atol=1e-7)
    ours, torchs = both(lambda: gated_unit(x))
    assert_close(ours.float(), torchs.float(), rtol=2**-6, atol=1e-5)


@TYPES
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(dtype: torch.dtype, bad: float) -> None:
    x = random(4, 64, dtype=dtype)
    x[1, 3] = bad
    x[2, 50] = -bad
    norm = RMSNorm(64).to(dtype)
    silent = [
        norm(x), modulated_norm(x[None], x[None, :1] * 0, x[None, :1] * 0, 1e-6)[0],
        cpu.quantize_tokens(x)[1][:, None].to(dtype), gated_unit(x),
    ]  # fmt: skip
    for out in silent:
        assert not out[1].isfinite().all()
        assert not out[2].isfinite().all()
        assert out[0].isfinite().all()


def test_tensors_that_it_does_not_take() -> None:
    x = random(4, 64)
    assert rows.runs(x, None, x)
    assert not rows.runs(x.half())
    assert not rows.runs(x.double())
    assert not rows.runs(x.to("meta"))
    assert not rows.runs(x, x.bfloat16())
    assert not rows.runs(x.T)
    assert not rows.runs(x[:, 1:], whole=True)
    assert not rows.runs(x[:0])
    assert not rows.runs(random(1, 40_000))
    with torch.inference_mode(False), torch.enable_grad():
        assert not rows.runs(random(4, 64))


@TYPES
def test_gradients_do_not_go_past_it(dtype: torch.dtype) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        x = random(4, 64, dtype=dtype).requires_grad_()
        gated_unit(RMSNorm(64).to(dtype)(x)).float().sum().backward()
        assert x.grad is not None


# -- compiling -----------------------------------------------------------------------------------------


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "native"
    assert not isinstance(library.find_library(folder), Failure)
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    monkeypatch.setattr(library, "_compiler", lambda: None)
    assert not isinstance(library.find_library(folder), Failure)


@pytest.mark.parametrize(
    ("compiler", "said"),
    [("#!/bin/sh\necho 'no such option' >&2; exit 1", "no such option"), ("", "")],
)
def test_a_compiler_that_fails_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, said: str
) -> None:
    program = tmp_path / "cc"
    if compiler:
        program.write_text(compiler)
        program.chmod(0o700)
    monkeypatch.setattr(library, "_compiler", lambda: str(program))
    failure = library.find_library(tmp_path / "native")
    assert isinstance(failure, Failure)
    assert not failure.is_refusal, "it may be mended"
    assert said in failure.reason
    assert not list((tmp_path / "native").iterdir())


def test_a_broken_library_is_made_again(tmp_path: Path) -> None:
    first = library.find_library(tmp_path)
    assert not isinstance(first, Failure)
    (path,) = tmp_path.iterdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / path.name).write_bytes(b"no library")
    (other / path.name).chmod(0o700)
    assert not isinstance(library.find_library(other), Failure)


def test_nothing_is_loaded_that_others_can_change(tmp_path: Path) -> None:
    folder = tmp_path / "native"
    assert not isinstance(library.find_library(folder), Failure)
    folder.chmod(0o777)
    failure = library.find_library(folder)
    assert isinstance(failure, Failure)
    assert "other users" in failure.reason


def test_another_processor_has_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "platform", SimpleNamespace(machine=lambda: "aarch64"))
    assert not library.is_for_this_processor()
    assert isinstance(library.find_library(tmp_path), Failure)


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget what this process has decided."""

    def forget() -> None:
        monkeypatch.setattr(rows, "_library", None)
        monkeypatch.setattr(rows, "_is_decided", False)
        monkeypatch.setattr("quant.backends.verdicts._of_this_process", {})

    forget()
    return forget


def test_a_machine_decides_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_process: Callable[[], None]
) -> None:
    folder, verdicts = tmp_path / "native", tmp_path / "kernels.json"
    assert rows.use(folder, verdicts)
    monkeypatch.setattr(rows, "_is_worth_it", None)
    monkeypatch.setattr(library, "_compiler", lambda: None)  # which is gone, and not needed again
    new_process()
    assert rows.use(folder, verdicts)
    assert rows.is_used()


def test_without_a_compiler_torch_runs_until_a_process_finds_one(
    tmp_path: Path, new_process: Callable[[], None]
) -> None:
    folder, verdicts = tmp_path / "native", tmp_path / "kernels.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_compiler", lambda: None)
        assert not rows.use(folder, verdicts)
    assert not rows.use(folder, verdicts), "a process changes no picture on the way"
    new_process()
    assert rows.use(folder, verdicts)


def test_a_disk_without_programs_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_process: Callable[[], None]
) -> None:
    monkeypatch.setattr(library, "_opened", lambda path: None)
    assert not rows.use(tmp_path / "native", tmp_path / "kernels.json")
    assert not list((tmp_path / "native").iterdir())
    monkeypatch.setattr(rows, "find_library", None)
    new_process()
    assert not rows.use(tmp_path / "native", tmp_path / "kernels.json")


@pytest.mark.usefixtures("new_process")
@pytest.mark.parametrize(
    ("where", "name", "value"),
    [(rows, "_WORTH", 1e9), (torch, "allclose", lambda *args, **rest: False)],
    ids=["slow", "wrong"],
)
def test_wrong_or_slow_code_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
) -> None:
    monkeypatch.setattr(where, name, value)
    assert not rows.use(tmp_path / "native", tmp_path / "kernels.json")
    assert not rows.is_used()


@pytest.mark.usefixtures("new_process")
def test_without_a_folder_to_write_to_torch_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not rows.use(tmp_path / "file/native", tmp_path / "file/kernels.json")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_host_may_have_another_default_type(tmp_path: Path, new_process: Any, dtype: Any) -> None:
    torch.set_default_dtype(dtype)
    try:
        assert rows.use(tmp_path / "native", None)
        x = random(70, 64).float()
        q, scale = cpu.quantize_tokens(x)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = primitives.quantize_per_token(x)
    assert torch.equal(q, expected[0])
    assert torch.equal(scale, expected[1])


def test_the_source_compiles_without_a_warning(tmp_path: Path) -> None:
    compiler = library._compiler()
    assert compiler is not None
    for flags in library._BY_CAPABILITY.values():
        done = subprocess.run(
            [compiler, *flags, "-Wall", "-Wextra", "-Werror", str(library._SOURCE), "-o", str(tmp_path / "rows.so")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
