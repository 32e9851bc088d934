"""Bad input gets one clear line, a hint, its exit code and no traceback; nothing half-written stays."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_cli.errors import ExitCode
from tests.faults import STAGES, before_new_files, raising

FAST = ("--size", "64x64", "--steps", "2", "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def refused(sana: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """Run `sana generate`, require the exit code and a clean failure, return the error line."""
    folder = tmp_path / "out"
    folder.mkdir()

    def run(code: ExitCode, model: object, *options: object, prompt: str = "a fox") -> str:
        if not {"-o", "--output"} & set(options):
            options = ("-o", folder / "a.png", *options)
        result = sana("generate", prompt, "-m", model, *options)
        lines = result.err.splitlines()
        assert result.code == code, result.err
        assert result.out == ""
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, result.err
        assert all(line.startswith(("error: ", "hint: ", "note: ")) for line in lines), result.err
        assert lines[-1].startswith("hint: ") or code == ExitCode.INTERRUPTED, result.err
        left = [path.name for path in folder.iterdir()]
        # Latents that are finished stay when decoding fails; nothing half-written does.
        assert left in ([], ["a.png.latents.safetensors"])
        assert bool(left) == ("sana decode " in lines[-1])
        return errors[0]

    return run


@pytest.fixture
def broken(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "broken"))


# -- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "100x64"), "not a multiple of 32"),
        (("--size", "16x64"), "out of range"),
        (("--size", "0x64"), "out of range"),
        (("--width", "0"), "out of range"),
        (("--width", "-32"), "out of range"),
        (("--size", "999968x64"), "out of range"),
        (("--size", "big"), "cannot read size"),
        (("--size", "64x64", "--width", "64"), "not both"),
        (("--aspect", "16:9", "--width", "64"), "not both"),
        (("--aspect", "wide"), "cannot use aspect ratio"),
        (("--steps", "0"), "cannot draw in 0 steps"),
        (("--steps", "-3"), "cannot draw in -3 steps"),
        (("--steps", "many"), "--steps: "),
        (("--guidance", "-1"), "guidance -1.0 is out of range"),
        (("--guidance", "nan"), "guidance nan is out of range"),
        (("--count", "0"), "cannot draw 0 pictures"),
        (("--seed", "-2"), "seed -2 is out of range"),
        (("--seed", "any"), "--seed: 'any' is not a whole number or 'random'"),
        (("--seed", str(2**64)), "out of range"),
        (("--seed", str(2**64 - 1), "--count", "2"), "out of range"),
        (("--scheduler", "scm"), "does not fit"),
        (("--scheduler", "ddim"), "--scheduler: "),
        (("--precision", "int3"), "--precision: "),
        (("--bins",), "no aspect-ratio table"),
        (("--sede", "1"), "there is no option --sede"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_values(
    refused: Callable[..., str], tiny_model: Path, options: tuple[str, ...], message: str
) -> None:
    assert message in refused(ExitCode.USAGE, tiny_model, *options)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--max-memory", "4"), "give it a unit: 4GiB, or 4MiB"),
        (("--max-memory", "0"), "write a number and GiB, GB, MiB or MB, at least 1MiB: 4GiB"),
        (("--max-memory", "0.5kB"), "at least 1MiB"),
        (("--tile", "320000000"), "a multiple of 32 from 32 to 16384"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_hints_that_say_what_to_do(
    sana: Callable[..., Any], options: tuple[str, ...], hint: str
) -> None:
    result = sana("generate", "a fox", *options)
    assert result.code == ExitCode.USAGE
    assert hint in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("generate", "a", "fox"), "in quotes: sana generate 'a fox'"),
        (("generate", "a", "red", "fox", "--steps", "3"), "in quotes: sana generate 'a red fox'"),
        (("a red fox",), "to draw it: sana generate 'a red fox'"),
        (("run", "llama"), "did you mean `sana generate`?"),
        (("draw",), "did you mean `sana generate`?"),
        (("list",), "did you mean `sana models`?"),
        (("ls", "-l"), "did you mean `sana models`?"),
        (("rm", "sana-0.6b"), "did you mean `sana remove`?"),
        (("download", "sana-0.6b"), "did you mean `sana pull`?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_words_that_are_near_what_is_meant(
    sana: Callable[..., Any], words: tuple[str, ...], hint: str
) -> None:
    result = sana(*words)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    error, hinted = result.err.splitlines()
    assert error.startswith("error: ")
    assert hinted.endswith(hint)


def test_the_built_in_model_is_told_with_a_picture_only(
    sana: Callable[..., Any], tmp_path: Path
) -> None:
    words = ("generate", "a cat", "-o", tmp_path / "a.png", *FAST)
    note = "note: this is the 20 MB demo model"
    for options in (("--dry-run",), ("--size", "33x33"), ("--lora", "no-such.safetensors")):
        assert note not in sana(*words, *options).err
    assert note not in sana(*words, "--model", "builtin").err
    assert sana(*words, "--force").err.count(note) == 1


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
def test_empty_prompt(refused: Callable[..., str], tiny_model: Path, prompt: str) -> None:
    assert "the prompt is empty" in refused(ExitCode.USAGE, tiny_model, prompt=prompt)


def test_sprint_refuses_other_schedulers(refused: Callable[..., str], pipelines: Any) -> None:
    model = pipelines.folder("sprint")
    assert "does not fit" in refused(ExitCode.USAGE, model, "--scheduler", "flow-dpm")


def test_absent_device(refused: Callable[..., str], tiny_model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    assert "cuda is not available" in refused(ExitCode.ENVIRONMENT, tiny_model, "--device", "cuda")


def test_half_precision_of_the_other_kind(refused: Callable[..., str], pipelines: Any) -> None:
    model = pipelines.folder("plain", "bf16")
    assert "trained in bf16" in refused(ExitCode.USAGE, model, "--precision", "fp16")


# -- output ------------------------------------------------------------------------------------


def test_output_exists(refused: Callable[..., str], tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    path.write_text("mine")
    assert f"{path} exists" in refused(ExitCode.USAGE, tiny_model, "-o", path)
    assert path.read_text() == "mine"


def test_one_of_several_outputs_exists(
    refused: Callable[..., str], tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a-8.png").write_text("mine")
    options = ("-o", tmp_path / "a.png", "--seed", 7, "--count", 2)
    assert "a-8.png exists" in refused(ExitCode.USAGE, tiny_model, *options)
    assert not (tmp_path / "a-7.png").exists(), "found out before any work"


def test_output_folder_absent(
    refused: Callable[..., str], tiny_model: Path, tmp_path: Path
) -> None:
    message = refused(ExitCode.USAGE, tiny_model, "-o", tmp_path / "no" / "a.png")
    assert "no such folder" in message


def test_output_of_another_type(
    refused: Callable[..., str], tiny_model: Path, tmp_path: Path
) -> None:
    message = refused(ExitCode.USAGE, tiny_model, "-o", tmp_path / "a.gif")
    assert "saved as .png" in message


def test_unwritable_output(
    refused: Callable[..., str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere: let the system call say no

        def refuse() -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", before_new_files(folder, refuse))
    message = refused(ExitCode.ENVIRONMENT, tiny_model, "-o", folder / "a.png")
    assert "Permission denied" in message


# -- models ------------------------------------------------------------------------------------


def test_unknown_model_suggests(sana: Callable[..., Any]) -> None:
    result = sana("generate", "x", "-m", "sana-0.6")
    assert result.code == ExitCode.USAGE
    assert "unknown model 'sana-0.6'" in result.err
    assert "did you mean sana-0.6b" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image", "nope.png"), "no such picture: nope.png"),
        (("--lora", "nope.safetensors"), "no such LoRA"),
        (("--size", "77x77"), "not a multiple of 32"),
        (("--scheduler", "scm"), "scheduler scm does not fit sana-0.6b"),
    ],
)
def test_nothing_is_downloaded_for_what_cannot_be_drawn(
    options: tuple[str, ...], message: str, refused: Callable[..., str]
) -> None:
    """No hub can be reached here, which would be the first error."""
    assert message in refused(ExitCode.USAGE, "sana-0.6b", *options)


def test_no_network(refused: Callable[..., str]) -> None:
    """The hub's address is a closed port in tests."""
    refused(ExitCode.ENVIRONMENT, "sana-0.6b")


def test_offline_and_not_cached(refused: Callable[..., str]) -> None:
    message = refused(ExitCode.ENVIRONMENT, "sana-0.6b", "--offline")
    assert "not in the local cache" in message


def test_folder_that_is_no_model(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "no model_index.json" in refused(ExitCode.CHECKPOINT, tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "nan"])
def test_damaged_weights(refused: Callable[..., str], broken: Path, file: str, damage: str) -> None:
    path = broken / file
    expected = path.name
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        tensors = load_file(path)
        name = sorted(name for name in tensors if not name.startswith("encoder."))[3]
        tensors[name].view(-1)[-1] = torch.nan
        expected = name.removeprefix("decoder.")
        save_file(tensors, path)
    assert expected in refused(ExitCode.CHECKPOINT, broken, *FAST)


# -- the run itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted(
    refused: Callable[..., str], tiny_model: Path, at_stage: Callable[..., Any], stage: str
) -> None:
    with at_stage(stage, raising(KeyboardInterrupt())):
        assert "interrupted" in refused(ExitCode.INTERRUPTED, tiny_model, *FAST)


@pytest.mark.parametrize("stage", STAGES[:-1])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_out_of_memory(
    refused: Callable[..., str],
    tiny_model: Path,
    at_stage: Callable[..., Any],
    stage: str,
    error: BaseException,
) -> None:
    with at_stage(stage, raising(error)):
        assert "out of memory at 64x64" in refused(ExitCode.ENVIRONMENT, tiny_model, *FAST)


def test_real_allocation_failure(tiny_model: Path, tmp_path: Path) -> None:
    """Not simulated: address space is capped below what a large picture needs.

    In a process of its own: oneDNN remembers that it could not make a kernel, and never tries again. A small picture
    comes first, so that libraries and threads are there: without space they end in ways of their own.
    """
    program = """
import resource, sys
from pathlib import Path
from sana_cli.cli import main
words = sys.argv[1:]
assert main([*words, "--size", "64x64"]) == 0
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50 * 2**20, resource.RLIM_INFINITY))
Path(words[-1]).unlink()
sys.exit(main([*words, "--size", "1024x1024"]))
"""
    words = ("generate", "a fox", "-m", str(tiny_model), "--steps", "1", "--device", "cpu")
    command = (sys.executable, "-c", program, *words, "--precision", "fp32", "-o")
    result = subprocess.run(
        (*command, str(tmp_path / "a.png")), capture_output=True, text=True, check=False
    )
    assert result.returncode == ExitCode.ENVIRONMENT, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: out of memory at 1024x1024"]
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("module", "later"), [("torch.types", 0), ("tokenizers.models", 1)], ids=["imports", "draws"]
)
def test_ctrl_c_of_a_process(tiny_model: Path, tmp_path: Path, module: str, later: float) -> None:
    """A real SIGINT, while libraries are imported and while it draws."""
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "sana_cli", "generate", "x", "-m", tiny_model,
         "-o", out / "a.png", "--size", "1024x1024", "--steps", "1000", "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # What runs in the background of a shell inherits that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:  # each module, when it is there
        if line.endswith(f" {module}\n"):
            break
    time.sleep(later)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, stderr
    assert stderr.strip().splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in stderr
    assert (stdout, list(out.iterdir())) == ("", [])


def test_bugs_keep_their_traceback(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, at_stage: Callable[..., Any]
) -> None:
    bug = at_stage("denoise", raising(ZeroDivisionError("a bug")))
    with bug, pytest.raises(ZeroDivisionError):
        sana("generate", "x", "-m", tiny_model, "-o", tmp_path / "a.png", *FAST)


def test_debug_keeps_the_traceback_of_expected_errors(sana: Callable[..., Any]) -> None:
    plain, debug = (
        sana("generate", "x", "-m", "nothing"),
        sana("--debug", "generate", "x", "-m", "nothing"),
    )
    assert debug.code == plain.code == ExitCode.USAGE
    assert debug.err.startswith("Traceback")
    assert debug.err.endswith(plain.err)
