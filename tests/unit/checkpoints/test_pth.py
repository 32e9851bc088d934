"""`.pth` files as trainers leave them, and those that would take more memory than they seem to."""

import argparse
import os
import pickle
import random
import tracemalloc
import types
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sana_cli.checkpoints.pth import read_pth
from sana_cli.errors import ExitCode, SanaError

STATE = {"x_embedder.proj.weight": torch.ones(8, 32, 1, 1)}


def error_of(path: Path) -> SanaError:
    with pytest.raises(SanaError) as caught:
        read_pth(path)
    assert "\n" not in caught.value.message
    return caught.value


BESIDE: dict[str, Any] = {
    "random states": {
        "numpy": np.random.get_state(), "python": random.getstate(), "torch": torch.get_rng_state(),
        "generator": np.random.default_rng(1),
    },
    "arrays": {"loss": np.arange(3.0), "step": np.float64(3), "done": np.bool_(True), "names": np.array(["a"])},
    "objects": {"args": argparse.Namespace(a=1), "more": types.SimpleNamespace(b=2), "out": Path("x")},
    "counts": defaultdict(int, a=1),
    "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict(),
}  # fmt: skip


@pytest.mark.parametrize("kind", BESIDE)
def test_what_trainers_save_beside_the_weights(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": STATE, kind: BESIDE[kind]}, path)
    error = error_of(path)  # of the weights, which were read
    assert "missing tensor caption_projection" in error.message


@pytest.mark.parametrize(
    "prefix", ["module.", "model.diffusion_model.", "_orig_mod.module.", "model."]
)
def test_weights_of_a_wrapped_model(tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / "a.pth")
    assert "missing tensor caption_projection" in error_of(tmp_path / "a.pth").message


def test_weights_under_the_names_of_diffusers(tmp_path: Path) -> None:
    torch.save({"transformer_blocks.0.attn1.to_q.weight": torch.ones(2, 2)}, tmp_path / "a.pth")
    assert "transformer/ of a model folder" in error_of(tmp_path / "a.pth").hint


def test_arrays_of_an_older_numpy(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    content = pickle.dumps({"state_dict": {}, "x": np.arange(3)}, protocol=2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", old)
        file.writestr("archive/version", "3")
        file.writestr("archive/byteorder", "little")
    assert "missing tensor" in error_of(path).message


def test_weights_that_are_arrays(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x_embedder.proj.weight": np.ones(3)}}, tmp_path / "a.pth")
    error = error_of(tmp_path / "a.pth")
    assert "holds no state_dict of tensors" in error.message
    assert "get it again" not in error.hint


class Runs:
    def __init__(self, function: Any, *args: object) -> None:
        self.what = function, args

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize(
    "function",
    [os.system, eval, exec, getattr, __import__, np.load, np.fromfile, pickle.loads],
    ids=lambda function: function.__name__,
)
def test_nothing_else_is_called(tmp_path: Path, function: Any) -> None:
    torch.save({"state_dict": STATE, "x": Runs(function, "1")}, tmp_path / "a.pth")
    assert "would run code" in error_of(tmp_path / "a.pth").message


def archive(path: Path, *, compression: int, megabytes: int) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        with file.open("archive/data.pkl", "w", force_zip64=True) as member:
            for _ in range(megabytes):
                member.write(bytes(10**6))
        file.writestr("archive/version", "3")
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_grows_is_not_unpacked(tmp_path: Path, compression: int) -> None:
    path = archive(tmp_path / "a.pth", compression=compression, megabytes=50)
    assert path.stat().st_size < 10**6
    tracemalloc.start()
    assert "compressed archive" in error_of(path).message
    assert tracemalloc.get_traced_memory()[1] < 5 * 10**6
    tracemalloc.stop()


def test_a_pickle_that_describes_no_model(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", compression=zipfile.ZIP_STORED, megabytes=70)
    assert "more bytes than any model" in error_of(path).message


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content, what in (
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"GGUF" + bytes(20), "GGUF"),
        (b"\2\0\0\0\0\0\0\0{}", "it is a safetensors file"),
    ):
        path.write_bytes(content)
        error = error_of(path)
        assert what in error.message
        assert error.code == ExitCode.CHECKPOINT
        assert "get it again" not in error.hint


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}, protocol=4), b"", b"\x80\x02."])
def test_advice_to_developers_is_left_out(tmp_path: Path, content: bytes) -> None:
    """torch wants reports about its messages, and proposes to load the file unsafely."""
    path = tmp_path / "a.pth"
    for with_version in (True, False):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", content)
            if with_version:
                file.writestr("archive/version", "3")
        message = error_of(path).message
        assert "is not a readable .pth file: " in message
        assert not any(word in message for word in ("weights_only", "Please", "PyTorch"))
