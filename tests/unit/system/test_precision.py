"""Which dtype runs where; machines are simulated."""

from collections.abc import Callable

import pytest
import torch

from sana_cli.errors import ExitCode, SanaError
from sana_cli.system import precision
from sana_cli.system.precision import SAFEST, pick_device, plan_dtypes

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def plan(requested: str, trained: str, device: torch.device) -> str:
    return str(plan_dtypes(requested, trained, device))  # type: ignore[arg-type]


@pytest.fixture(params=[True, False], ids=["fast bf16", "slow bf16"])
def fast_bf16(request: pytest.FixtureRequest, system_file: Callable[..., None]) -> bool:
    system_file("/proc/cpuinfo", f"flags\t: avx2{' amx_tile' * request.param}\n")
    return request.param


def test_auto_on_a_cpu_uses_bf16_only_where_it_is_fast(fast_bf16: bool) -> None:
    assert plan("auto", "bf16", CPU) == ("bf16" if fast_bf16 else "fp32")
    assert plan("auto", "fp16", CPU) == ("fp32+bf16" if fast_bf16 else "fp32")
    assert plan("auto", "fp32", CPU) == plan("fp32", "fp16", CPU) == "fp32"


def test_auto_on_cuda_follows_the_training(fast_bf16: bool) -> None:
    assert plan("auto", "bf16", CUDA) == "bf16"
    assert plan("auto", "fp16", CUDA) == "fp16+bf16"
    assert plan("auto", "fp32", CUDA) == "fp32"


@pytest.fixture(params=[(7, 5), (6, 1)], ids=["Turing", "Pascal"])
def old_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: request.param)


@pytest.mark.usefixtures("old_gpu")
def test_nothing_runs_in_bf16_before_ampere() -> None:
    """cuDNN finds no engine for a convolution there, and torch says that bf16 is supported."""
    assert plan("auto", "fp16", CUDA) == "fp16+fp32"
    assert plan("fp16", "fp16", CUDA) == "fp16+fp32"
    assert plan("auto", "bf16", CUDA) == plan("auto", "fp32", CUDA) == "fp32"
    with pytest.raises(SanaError, match="no bf16 instructions") as caught:
        plan("bf16", "bf16", CUDA)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert "--precision auto" in caught.value.hint


def test_auto_on_apple_is_fp32() -> None:
    assert plan("auto", "fp16", MPS) == plan("auto", "bf16", MPS) == "fp32"


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("requested", ["auto", "fp16"])
def test_decoder_and_text_encoder_never_run_in_fp16(
    device: torch.device, requested: str, fast_bf16: bool
) -> None:
    dtypes = plan_dtypes(requested, "fp16", device)  # type: ignore[arg-type]
    assert "fp16" not in (dtypes.vae, dtypes.text_encoder)


@pytest.mark.parametrize(("requested", "trained"), [("fp16", "bf16"), ("bf16", "fp16")])
def test_the_wrong_half_precision_is_refused(requested: str, trained: str) -> None:
    with pytest.raises(SanaError) as caught:
        plan(requested, trained, CPU)
    assert caught.value.code == ExitCode.USAGE
    assert trained in caught.value.message


def test_fp32_is_always_allowed() -> None:
    for trained in ("fp16", "bf16", "fp32"):
        assert plan_dtypes("fp32", trained, CUDA) == SAFEST


def test_absent_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SanaError) as caught:
        pick_device("cuda")
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize(
    ("limit", "may"), [("AVX2", False), ("avx512_core_vnni", False), ("ALL", True)]
)
def test_instructions_that_are_forbidden_do_not_count(
    limit: str, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = precision.cpu_has_fast_bf16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert precision.cpu_has_fast_bf16() == (usual and may)


@pytest.mark.parametrize(
    ("requested", "device", "fast", "slow"),
    [
        ("fp16", CPU, True, True),
        ("bf16", CPU, True, False),
        ("bf16", CPU, False, True),
        ("fp32", CPU, False, False),
        ("auto", CPU, False, False),
        ("fp16", CUDA, False, False),
    ],
)
def test_a_slow_precision_is_named(
    requested: str, device: torch.device, fast: bool, slow: bool, system_file: Callable[..., None]
) -> None:
    system_file("/proc/cpuinfo", f"flags\t: avx2{' avx512_bf16' * fast}\n")
    assert ("slower than fp32" in precision.slowness(requested, device)) == slow  # type: ignore[arg-type]
