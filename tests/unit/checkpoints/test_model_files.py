"""Files of a model that cannot be read: each cause is named, and its remedy is one that can help."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from sana_cli.checkpoints.lora_file import open_loras
from sana_cli.checkpoints.model_files import read_json, reading, unreadable
from sana_cli.checkpoints.pth import read_pth
from sana_cli.checkpoints.safetensors_headers import WeightFiles, read_header, read_metadata
from sana_cli.errors import ExitCode, SanaError
from tests.faults import PanicException

AGAIN = "get it again"
KINDS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(64), "safetensors release"),
    "page": (b"<!doctype html><html>not found</html>", "/resolve/"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(64), "the model's own file"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "the model's own file"),
    "zip": (b"PK\3\4" + bytes(64), "safetensors release"),
    "pickle": (b"\x80\2}q\0." + bytes(64), "safetensors release"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), "unpack"),
    "pdf": (b"%PDF-1.7" + bytes(64), "the model's own file"),
}


def open_lora(path: Path) -> object:
    return open_loras([(path, 1.0)])


def open_index(path: Path) -> object:
    (path.parent / "m-00001-of-00001.safetensors").touch()
    path.rename(path.with_name("m.safetensors.index.json"))
    return WeightFiles(path.parent, stem="m")


READERS: list[Callable[[Path], object]] = [
    read_header,
    read_metadata,
    read_json,
    open_lora,
    open_index,
]
readers = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)


def error_of(read: Callable[[Path], object], path: Path) -> SanaError:
    with pytest.raises(SanaError) as caught:
        read(path)
    assert "\n" not in caught.value.message
    return caught.value


@readers
@pytest.mark.parametrize(("content", "remedy"), KINDS.values(), ids=KINDS.keys())
def test_another_kind_of_file_is_not_fetched_again(
    read: Callable[[Path], object], tmp_path: Path, content: bytes, remedy: str
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    error = error_of(read, path)
    assert remedy in error.hint
    assert AGAIN not in error.hint
    assert error.code == ExitCode.CHECKPOINT


@readers
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"{" * 10**5, b"[" * 10**5, b"\x10"])
def test_a_damaged_file_is(read: Callable[[Path], object], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert AGAIN in error_of(read, path).hint


@readers
def test_what_is_no_regular_file_is_refused_at_once(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    os.mkfifo(path)
    assert AGAIN not in error_of(read, path).hint


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write((2**33).to_bytes(8, "little"))
        file.truncate(2**34)  # takes no room on the disk
    assert "a header of 8589934592 bytes" in error_of(read_header, path).message


def test_a_large_json_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**34)
    assert "too large" in error_of(read_json, path).message


@pytest.mark.parametrize(
    ("number", "hint", "code"),
    [
        (errno.EACCES, "let your user read it", ExitCode.CHECKPOINT),
        (errno.EPERM, "let your user read it", ExitCode.CHECKPOINT),
        (errno.EISDIR, "name the file itself", ExitCode.CHECKPOINT),
        (errno.EIO, "look at the disk", ExitCode.ENVIRONMENT),
        (errno.ESTALE, "look at the disk", ExitCode.ENVIRONMENT),
        (errno.ENOENT, AGAIN, ExitCode.CHECKPOINT),
    ],
)
def test_what_the_system_says(tmp_path: Path, number: int, hint: str, code: ExitCode) -> None:
    error = unreadable(tmp_path / "a", "is bad", OSError(number, os.strerror(number)))
    assert hint in error.hint
    assert error.code == code


def test_the_system_refuses_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while weights, digests and names of models are read."""
    from sana_cli.checkpoints.component_weights import _require_digest
    from sana_cli.checkpoints.digest import model_digest
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.checkpoints.safetensors_data import read_tensor

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    (tmp_path / "m.safetensors").write_bytes(save({"a": torch.ones(2)}))
    files = WeightFiles(tmp_path, stem="m")
    builtin = open_checkpoint("builtin")
    files.start_of("a")
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    for read in (
        lambda _: read_tensor(files, "a"),
        lambda _: _require_digest(tmp_path / "m.safetensors", "0"),
        lambda _: model_digest(builtin),
    ):
        error = error_of(read, tmp_path)
        assert "no permission" in error.message
        assert AGAIN not in error.hint


@pytest.mark.parametrize(
    "raised",
    [
        OverflowError("int too large"), RecursionError("too deep"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        PanicException("Onig: Regex search error\nmore"), ImportError("no module"), KeyError("x"), SystemError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_one_line(tmp_path: Path, raised: BaseException) -> None:
    path = tmp_path / "a"
    path.write_text("x")

    def read(path: Path) -> None:
        with reading(path, "is bad"):
            raise raised

    assert " is bad: " in error_of(read, path).message


def test_no_memory_is_not_a_damaged_file(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        with reading(path):
            raise MemoryError

    error = error_of(read, tmp_path / "a")
    assert error.code == ExitCode.ENVIRONMENT
    assert AGAIN not in error.hint


def test_an_interrupt_is_let_through(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), reading(tmp_path / "a"):
        raise KeyboardInterrupt


def test_weights_in_another_format_are_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    error = error_of(lambda path: WeightFiles(path, stem="model"), tmp_path)
    assert "found pytorch_model.bin" in error.message
    assert AGAIN not in error.hint


@pytest.mark.parametrize("name", ["note.txt", "README.md", "config.json"])
@pytest.mark.parametrize("read", [read_header, read_pth], ids=lambda read: read.__name__)
def test_text_is_named(read: Callable[[Path], object], name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("a list of things to do\n")
    error = error_of(read, path)
    assert (error.message, error.hint) == (f"{path} is a text file", "check which file is meant")
