"""Files and values that nobody publishes: told as what they are, never a traceback or a wrong picture."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from sana_cli.errors import ExitCode
from tests.faults import edit_json, raising

FAST = ("--size", "64x64", "--steps", "1", "--device", "cpu", "--precision", "fp32", "--seed", "1")


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def fails(sana: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """Run, require an exit code, one error line and a hint, nothing on stdout; return the error."""

    def run(code: ExitCode, *arguments: object) -> str:
        result = sana(*arguments)
        assert result.code == code, result.err
        assert result.out == ""
        errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, result.err
        assert result.err.splitlines()[-1].startswith("hint: "), result.err
        assert list(tmp_path.glob("*.png")) == []
        return errors[0]

    return run


def test_a_word_of_the_tokenizer_that_is_none(
    fails: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    edit_json(model / "tokenizer/tokenizer_config.json", bos_token=5)
    fails(ExitCode.CHECKPOINT, "generate", "x", "-m", model, "-o", tmp_path / "a.png", *FAST)


def test_guidance_of_zero_is_kept(sana: Callable[..., Any], model: Path) -> None:
    (model / "sana.json").write_text('{"guidance": 0}')
    assert sana("info", model, "--json").document["guidance"] == 0


def test_code_in_a_folder_never_runs(sana: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    (model / "tokenizer/evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = model / "tokenizer/tokenizer_config.json"
    edit_json(path, tokenizer_class="Tok", auto_map={"AutoTokenizer": ["evil.Tok", None]})
    result = sana("generate", "x", "-m", model, "-o", tmp_path / "a.png", *FAST)
    assert result.code == 0, result.err
    assert not (tmp_path / "ran").exists()


def test_transformer_of_zeros(fails: Callable[..., str], model: Path, tmp_path: Path) -> None:
    path = model / "transformer/diffusion_pytorch_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}, path)
    error = fails(
        ExitCode.CHECKPOINT, "generate", "x", "-m", model, "-o", tmp_path / "a.png", *FAST
    )
    assert "flat values" in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("-o", "y" * 300 + ".png"),
        ("-m", "~nosuchuser/x"),
        ("-m", "z" * 5000),
        ("-m", ""),
        ("-o", ""),
        ("--size", ""),
        ("--aspect", ""),
        ("--negative", "\udcff"),
        ("--negative", "w" * 30_000),
    ],
    ids=lambda value: value[:20].encode(errors="replace").decode(),
)
def test_odd_values(
    fails: Callable[..., str], tiny_model: Path, tmp_path: Path, option: str, value: str
) -> None:
    given = {"-m": str(tiny_model), "-o": str(tmp_path / "a.png")} | {option: value}
    options = [word for pair in given.items() for word in pair]
    fails(ExitCode.USAGE, "generate", "x", *options, "--steps", "1")


def test_dangling_link_as_output_is_found_before_any_work(
    fails: Callable[..., str], tiny_model: Path, tmp_path: Path, before_loading: Callable[..., Any]
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").rename(tmp_path / "link.PNG")
    words = ("generate", "x", "-m", tiny_model, "-o", tmp_path / "link.PNG", *FAST)
    with before_loading("text", raising(AssertionError("work was begun"))):
        fails(ExitCode.USAGE, *words)


def test_long_but_legal_name(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    assert sana("generate", "x", "-m", tiny_model, "-o", path, *FAST).code == 0
    assert path.is_file()


def test_name_that_is_no_text(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"b\xff.png")
    assert sana("generate", "x", "-m", tiny_model, "-o", path, *FAST).code == 0
    assert path.is_file()


def test_a_pipe_is_not_replaced(
    fails: Callable[..., str], tiny_model: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "pipe.PNG"
    os.mkfifo(fifo)
    options = ("-m", tiny_model, "-o", fifo, "--force", *FAST)
    assert "not a regular file" in fails(ExitCode.USAGE, "generate", "x", *options)
    assert fifo.is_fifo()


def test_finished_pictures_are_told_when_a_later_one_fails(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    before_computing: Callable[..., Any],
) -> None:
    def fail_second() -> None:
        if (tmp_path / "a-1.png").exists():
            raise MemoryError

    options = ("-m", tiny_model, "-o", tmp_path / "a.png", "--count", "3", "--json", *FAST)
    with before_computing("denoise", fail_second):
        result = sana("generate", "x", *options)
    assert result.code == ExitCode.ENVIRONMENT
    assert [Path(image["path"]).name for image in result.documents[0]["images"]] == ["a-1.png"]
    assert result.documents[-1]["error"]["code"] == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    "text", ["{", "[1, 2]", "5", "null", "[]", "{}", "[" * 100_000], ids=lambda t: t[:5]
)
def test_settings_chunk(fails: Callable[..., str], tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_itxt("sana", text)
    path = tmp_path / "picture.PNG"
    Image.new("RGB", (1, 1)).save(path, format="PNG", pnginfo=info)
    assert "cannot be read: they are damaged" in fails(ExitCode.USAGE, "info", path)


def test_terminal_controls_stay_out_of_the_terminal(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    prompt = "a\x1b]0;evil\x07 fox"
    path = tmp_path / "a.png"
    assert sana("generate", prompt, "-m", tiny_model, "-o", path, *FAST).code == 0
    assert "\x1b" not in sana("info", path).out
    assert sana("info", path, "--json").document["settings"]["prompt"] == prompt
