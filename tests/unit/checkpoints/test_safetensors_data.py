"""Tensors, and rows of them, are read as they are stored."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sana_cli.checkpoints.safetensors_data import read_rows, read_tensor, stored_shape
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.errors import ExitCode, SanaError


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64]
)
def test_tensors_and_rows_are_read_as_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    table = torch.arange(60).view(10, 2, 3).to(dtype)
    tensors = {"first": torch.ones(3), "table": table, "scalar": torch.tensor(2.5)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    files = WeightFiles(tmp_path, stem="m")
    for name, tensor in tensors.items():
        found = read_tensor(files, name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
    assert torch.equal(read_rows(files, "table", [7, 0, 7]), table[[7, 0, 7]])


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "m.safetensors")
    files = WeightFiles(tmp_path, stem="m")
    path = tmp_path / "m.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    last = max(files, key=files.start_of)
    with pytest.raises(SanaError, match="ends too early"):
        read_tensor(files, last)


def test_a_shape_is_known_without_reading(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    files = WeightFiles(tmp_path, stem="m")
    (tmp_path / "m.safetensors").unlink()
    found = stored_shape(files, "a")
    assert (found.shape, found.dtype, found.device.type) == ((2, 3), torch.bfloat16, "meta")


def test_a_type_that_torch_lacks(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "m.safetensors")
    files = WeightFiles(tmp_path, stem="m")
    files.headers["a"] = ("F4", (2,))
    with pytest.raises(SanaError, match=r"cannot read a from .*: type F4") as caught:
        read_tensor(files, "a")
    assert caught.value.code == ExitCode.CHECKPOINT
