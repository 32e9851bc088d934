"""The files of a component, by their headers: which holds what, and every way in which they cannot be read."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sana_cli.checkpoints.safetensors_headers import (
    WeightFiles,
    _header_of,
    main_dtype,
    parse_header,
    read_header,
    read_metadata,
)
from sana_cli.errors import SanaError


def build(folder: Path) -> None:
    save_file({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, folder / "m.safetensors")


def test_headers(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.int8)}, path, {"said": "x"})
    assert read_header(path) == {"a": ("F32", (2, 3)), "b": ("I8", (4,))}
    assert read_metadata(path) == {"said": "x"}
    files = WeightFiles(tmp_path, stem="m")
    assert (set(files), files.paths, files.parameters) == ({"a", "b"}, {path}, 10)
    content = path.read_bytes()
    assert content[files.start_of("a") :][:4] == b"\0\0\x80?"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(2, 3)}, path)
    first = read_header(path)
    first.clear()  # the caller's own
    parsed = _header_of.cache_info().misses
    assert read_header(path) == {"a": ("F32", (2, 3))}
    assert _header_of.cache_info().misses == parsed, "once"
    other = tmp_path / "n.safetensors"
    save_file({"a": torch.ones(3, 2)}, other)  # as long as the first
    other.replace(path)
    assert read_header(path) == {"a": ("F32", (3, 2))}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SanaError):
        read_header(path)


def test_the_type_of_most_elements() -> None:
    assert main_dtype({"a": ("F32", (9,)), "b": ("BF16", (2, 5))}) == "bf16"
    assert main_dtype({"a": ("F8_E4M3", (9,))}) == "F8_E4M3"


def test_tensors_in_shards(tmp_path: Path) -> None:
    """The index says what belongs where; a tensor in another shard is an error."""
    names = [f"m-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, tensor in zip(names, "ab", strict=True):
        save_file({tensor: torch.ones(2)}, tmp_path / name)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(f'{{"weight_map": {{"a": "{names[0]}", "b": "{names[1]}"}}}}')
    files = WeightFiles(tmp_path, stem="m")
    assert [files.file_of(name).name for name in "ab"] == names
    index.write_text(f'{{"weight_map": {{"a": "{names[1]}", "b": "{names[0]}"}}}}')
    with pytest.raises(SanaError, match="does not expect there"):
        WeightFiles(tmp_path, stem="m")
    index.write_text(f'{{"weight_map": {{"a": "{names[0]}", "c": "{names[0]}"}}}}')
    with pytest.raises(SanaError, match="missing tensor c"):
        WeightFiles(tmp_path, stem="m")


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


def test_what_a_header_says(tmp_path: Path) -> None:
    """As the library reads it from a file, and where its bytes are."""
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(5, dtype=torch.int8), "c": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"some": "text"})
    content = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    found = parse_header(content[8 : 8 + length])
    assert {name: entry[:2] for name, entry in found.items()} == read_header(
        tmp_path / "x.safetensors"
    )
    assert content[8 + length + found["b"].start : 8 + length + found["b"].end] == b"\1" * 5
    assert max(entry.end for entry in found.values()) == len(content) - 8 - length


@pytest.mark.parametrize(
    "header",
    [
        b"", b"[]", b"null", b'"x"', b"{", b"\xff" * 9, b'{"a": 3}', b'{"a": {}}', b"[" * 99_999,
        b'{"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
    ],
)  # fmt: skip
def test_what_is_no_header(header: bytes) -> None:
    with pytest.raises(ValueError, match="no header of safetensors"):
        parse_header(header)
