"""Strict reading: every problem names the file or the tensor."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sana_cli.checkpoints.safetensors_data import read_tensor
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.errors import ExitCode, SanaError
from sana_cli.loading.assign import assign_weights
from tests.rehearsal.device import CUDA, Device

CPU = torch.device("cpu")


def build(folder: Path, *, device: torch.device = CPU, **changes: torch.Tensor | None) -> nn.Linear:
    """Write weights for a 3 -> 2 linear layer with `changes`, read them into one."""
    tensors = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)} | changes
    folder.mkdir(exist_ok=True)
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "m.safetensors")
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    files = WeightFiles(folder, stem="m")
    assign_weights(
        module,
        {name: name for name in files},
        lambda name: read_tensor(files, name),
        component="part",
        dtype=torch.float32,
        device=device,
    )
    return module


def test_good_weights(tmp_path: Path) -> None:
    module = build(tmp_path)
    assert module.weight.sum() == 6
    assert not module.weight.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": None}, "part: missing tensor bias"),
        ({"extra": torch.ones(1)}, "part: unexpected tensor extra"),
        ({"weight": torch.ones(3, 2)}, r"part: weight has shape \[3, 2\], expected \[2, 3\]"),
        ({"bias": torch.tensor([0.0, torch.nan])}, "part: bias holds NaN or infinite"),
        ({"bias": torch.tensor([torch.inf, -torch.inf])}, "part: bias holds NaN or infinite"),
    ],
    ids=["missing", "extra", "misshapen", "nan", "inf"],
)
def test_unfit_tensors_are_named(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    with pytest.raises(SanaError, match=message) as caught:
        build(tmp_path, **changes)
    assert caught.value.code == ExitCode.CHECKPOINT
    assert caught.value.hint


def test_large_finite_values_are_not_mistaken_for_infinite(tmp_path: Path) -> None:
    build(tmp_path, bias=torch.full((2,), 3e38))


class Stored(nn.Module):
    """A layer as quantization leaves it, with weights in 8-bit floats."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.empty(2, 3, dtype=torch.float8_e4m3fn))
        self.register_buffer("scale", torch.empty(2))


def fill(qweight: torch.Tensor) -> Stored:
    with torch.device("meta"):
        module = Stored()
    state = {"qweight": qweight, "scale": torch.ones(2)}
    assign_weights(
        module, {name: name for name in state}, state.__getitem__, component="part",
        dtype=torch.bfloat16, device=torch.device("cpu"),
    )  # fmt: skip
    return module


def test_tensors_of_quantized_layers_keep_their_type() -> None:
    module = fill(torch.ones(2, 3).to(torch.float8_e4m3fn))
    assert module.qweight.dtype == torch.float8_e4m3fn
    assert module.scale.dtype == torch.float32


@pytest.mark.parametrize(
    ("qweight", "message"),
    [
        (torch.full((2, 3), torch.nan).to(torch.float8_e4m3fn), "NaN or infinite"),
        (torch.ones(2, 3), "stored as float32"),
        (torch.ones(2, 3, dtype=torch.int8), "stored as int8"),
    ],
    ids=["NaN", "wide", "integers"],
)
def test_wrong_8_bit_floats(qweight: torch.Tensor, message: str) -> None:
    with pytest.raises(SanaError, match=message):
        fill(qweight)


def test_a_device_looks_at_its_own_weights(gpu: Device, tmp_path: Path) -> None:
    """Gigabytes of a text encoder were added up by the CPU, before each tensor was copied."""
    module = build(tmp_path / "good", device=CUDA)
    assert module.weight.is_cuda
    assert gpu.counts["syncs"] == len(module.state_dict())  # the answer for each
    with pytest.raises(SanaError, match="part: bias holds NaN or infinite"):
        build(tmp_path / "bad", device=CUDA, bias=torch.tensor([0.0, torch.nan]))
