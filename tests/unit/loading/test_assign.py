"""Strict reading: every problem names the file or the tensor."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sana_cli.checkpoints.safetensors_data import read_rows, read_tensor
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.errors import ExitCode, SanaError
from sana_cli.loading.assign import assign_weights


def build(folder: Path, **changes: torch.Tensor | None) -> nn.Linear:
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
        device=torch.device("cpu"),
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


@pytest.mark.parametrize("keep", [4, 60, 0.9])
def test_truncated_file(tmp_path: Path, keep: float) -> None:
    build(tmp_path)
    path = tmp_path / "m.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(SanaError, match="truncated or corrupt") as caught:
        WeightFiles(tmp_path, stem="m")
    assert str(path) in caught.value.message


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(SanaError, match="no weights"):
        WeightFiles(tmp_path / "absent", stem="m")


def test_missing_shard_and_broken_index(tmp_path: Path) -> None:
    shard = "m-00001-of-00002.safetensors"
    save_file({"weight": torch.ones(2, 3)}, tmp_path / shard)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(
        f'{{"weight_map": {{"weight": "{shard}", "bias": "m-00002-of-00002.safetensors"}}}}'
    )
    with pytest.raises(SanaError, match=r"missing weight file .*00002-of-00002"):
        WeightFiles(tmp_path, stem="m")
    index.write_text("{")
    with pytest.raises(SanaError, match="not a readable weight index"):
        WeightFiles(tmp_path, stem="m")


def test_dtype_is_read_from_the_header(tmp_path: Path) -> None:
    save_file(
        {"a": torch.ones(9, dtype=torch.bfloat16), "b": torch.ones(2)}, tmp_path / "m.safetensors"
    )
    files = WeightFiles(tmp_path, stem="m")
    assert files.dtype == "bf16"
    assert files.total_bytes == (tmp_path / "m.safetensors").stat().st_size


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
    build(tmp_path)
    files = WeightFiles(tmp_path, stem="m")
    path = tmp_path / "m.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    last = max(files, key=files.start_of)
    with pytest.raises(SanaError, match="ends too early"):
        read_tensor(files, last)
