"""`sana doctor`: it looks at everything, and says what to do about what is broken."""

import importlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quant.backends.attempt import Failure
from quant.native import library
from sana_cli import doctor
from sana_cli.errors import ExitCode
from sana_cli.system.packages import install_again
from sana_cli.terminal.logs import set_up

QUICK = ("settings", "hub", "disk", "models")  # the rest measures, which takes seconds


def test_everything_here(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = sana("doctor", "--json")
    findings = result.document["findings"]
    problems = [f for f in findings if f["state"] == "problem"]
    assert problems == []
    assert (result.code, result.document["problems"]) == (0, 0)
    topics = [f["topic"] for f in findings]
    assert list(dict.fromkeys(topics)) == list(doctor.CHECKS)
    texts = " ".join(f["text"] for f in findings)
    for told in (
        "torch 2.",
        "linear w8a8 on",
        "conv 3x3 w8a8 on",
        "built-in model draws on",
        "free for downloads",
    ):
        assert told in texts
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_compiler_is_noted(
    examined: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(library, "is_for_this_processor", lambda: True)
    monkeypatch.setattr(
        library, "find_library", lambda folder: None if there else Failure("no gcc")
    )
    assert ("our C code is not compiled (no gcc)" in examined("cpu").out) != there


def test_a_spinner_says_what_is_checked(
    examined: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal only; results stay on lines of their own on stdout."""

    def slow() -> Any:
        deadline = time.monotonic() + 60
        while "FORCE_COLOR" in os.environ and "checking" not in sys.stderr.getvalue():  # type: ignore[attr-defined]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield doctor.Finding(topic="disk", text="found")

    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert examined(disk=slow).err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    result = examined(disk=slow)
    assert "checking: disk" in result.err
    assert result.out == "ok    disk      found\n0 problems\n"
    assert examined(disk=slow, json=True).document["problems"] == 0


def test_kernels_are_named_once_and_libraries_are_left_alone(
    examined: Callable[..., Any],
) -> None:
    """Importing torchao and quanto takes seconds; a CPU has kernels of ours."""
    findings = examined("kernels", json=True).document["findings"]
    texts = [finding["text"] for finding in findings]
    assert any("linear w8a8 on" in text for text in texts)
    assert not any("reference reference" in text for text in texts)
    if any("on cpu" in text for text in texts):
        assert not any("torchao" in text or "quanto" in text for text in texts)


def test_a_scheme_without_a_kernel_of_ours_is_no_problem() -> None:
    """On CUDA nothing of ours multiplies weights of 8 bits alone, by design; only a kernel that fails is told."""
    import torch

    from quant.backends.measurement import Measurement

    reference = Measurement(kernel="reference", backend="reference", seconds=1.0, error=0.0)
    fails = Measurement(kernel="triton", backend="native", seconds=None, error=None, note="no gcc")

    def problems(kind: str, *measured: Measurement) -> list[str]:
        found = doctor.kernel_findings(kind, torch.device("cuda"), measured)
        return [finding.text for finding in found if finding.state == "problem"]

    assert problems("linear w8a8", reference, fails) == [
        "linear w8a8: our own kernel does not run here"
    ]
    assert problems("linear w8a16", reference) == []


@pytest.mark.parametrize(
    ("variable", "told", "remedy"),
    [
        (
            "OMP_WAIT_POLICY=PASSIVE",
            "): drawing takes longer",
            "wait until other programs are done",
        ),
        ("OMP_WAIT_POLICY=ACTIVE", "drawing may be 10 times slower", "unset OMP_WAIT_POLICY"),
    ],
)
def test_a_busy_machine(
    sana: Callable[..., Any],
    examined: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    told: str,
    remedy: str,
) -> None:
    """Told by the doctor and, with -v, by a run; what to do depends on who made the threads spin."""
    monkeypatch.setenv(*variable.split("="))
    monkeypatch.setattr("os.getloadavg", lambda: (99.5, 0.0, 0.0))
    draw = ("generate", "a cat", "--steps", 1, "--size", "32x32", "--device", "cpu", "--force")
    for text in (examined("cpu").out, sana("-v", *draw, "-o", tmp_path / "a.png").err):
        assert "the CPU is busy (load 99.5 on" in text
        assert told in text
        assert remedy in text
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert "busy" not in examined("cpu").out


@pytest.mark.parametrize(
    ("cap", "state", "told"),
    [
        (
            "2GiB",
            "ok",
            "builtin: plan: stages, decode whole; the fastest that fits; predicted peak",
        ),
        ("900TiB", "note", "max_memory 900TiB is more than there is: "),
        (
            "64MiB",
            "problem",
            "no plan fits into 64 MiB, set by SANA_MAX_MEMORY: the smallest needs",
        ),
    ],
)
def test_a_cap_beside_the_machine_and_the_model(
    examined: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cap: str, state: str, told: str
) -> None:
    monkeypatch.setenv("SANA_MAX_MEMORY", cap)
    findings = examined(*QUICK, json=True).document["findings"]
    (found,) = [f for f in findings if told in f["text"]]
    assert (found["topic"], found["state"], bool(found["remedy"])) == (
        "settings", state, state != "ok",
    )  # fmt: skip


def test_no_model_takes_no_room(examined: Callable[..., Any]) -> None:
    """Those that come with sana are not counted: "0.0 MB" would say that they have no size."""
    assert "none but those that come with sana\n" in examined("models").out


def test_problems_have_remedies(
    examined: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_STPES", "3")
    monkeypatch.setenv("SANA_MODEL", "sana-0.7b")
    models = tmp_path / "models"
    (models / "broken").mkdir(parents=True)
    (models / "broken/manifest.json").write_text("{}")
    monkeypatch.setenv("SANA_MODELS", str(models))
    half = tmp_path / "hub/models--Efficient-Large-Model--Sana_600M_1024px_diffusers/blobs"
    half.mkdir(parents=True)
    (half / "abc.sana.incomplete").write_bytes(b"x" * 1000)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    result = examined(*QUICK)
    assert result.code == ExitCode.ENVIRONMENT
    for told in (
        "SANA_STPES is not a setting, did you mean 'SANA_STEPS'",
        "unknown model 'sana-0.7b'",
        "sana-0.6b is only partly downloaded", "`sana pull sana-0.6b` resumes the download",
        "broken is unreadable", "`sana remove broken`",
        "1.0 GB free for downloads", "HF_HOME on another disk",
    ):  # fmt: skip
        assert told in result.out
    document = examined(*QUICK, json=True).document
    bad = [f for f in document["findings"] if f["state"] == "problem"]
    assert document["problems"] == len(bad) == 5
    assert all(f["remedy"] for f in bad)


@pytest.mark.parametrize("variable", ["SANA_CACHE", "SANA_MODELS"])
def test_a_file_where_a_folder_should_be(
    examined: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    result = examined(*QUICK)
    assert result.code == ExitCode.ENVIRONMENT
    assert f"{tmp_path / 'file'} is no folder: no " in result.out
    assert f"remove it, or set {variable} to a folder" in result.out


@pytest.mark.parametrize("kind", ["a circle of links", "a link that leads nowhere"])
@pytest.mark.parametrize("variable", ["SANA_CACHE", "SANA_MODELS"])
def test_a_folder_that_cannot_be_written(
    examined: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    variable: str, kind: str,
) -> None:  # fmt: skip
    """Whoever asks: permissions alone do not say, root passes them."""
    folder = tmp_path / "folder"
    folder.symlink_to(folder if "circle" in kind else tmp_path / "gone")
    monkeypatch.setenv(variable, str(folder))
    result = examined("disk")
    assert result.code == ExitCode.ENVIRONMENT
    assert f"FAIL  disk      {folder} cannot be written (" in result.out
    assert f"or set {variable} to another folder" in result.out


def test_a_cap_that_cannot_be_read(
    examined: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_MAX_MEMORY", "much")
    result = examined(*QUICK)
    assert result.code == ExitCode.ENVIRONMENT
    assert "SANA_MAX_MEMORY is 'much', and should be a size with a unit" in result.out
    assert "-> unset SANA_MAX_MEMORY, or give it such a value" in result.out


def test_no_chatter_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """optimum-quanto's kernels import diffusers, which reports whatever it finds of torchao."""
    pytest.importorskip("diffusers")
    pytest.importorskip("torchao")
    name = "diffusers.quantizers.torchao.torchao_quantizer"
    monkeypatch.delitem(sys.modules, name, raising=False)
    set_up(0)
    logger = importlib.import_module(name).logger
    assert logger is logging.getLogger(name)
    assert not logger.isEnabledFor(logging.WARNING)
    assert logger.isEnabledFor(logging.ERROR)


def test_a_broken_library_is_a_finding(examined: Callable[..., Any]) -> None:
    def broken() -> Any:
        raise ImportError("libtorch.so: cannot open shared object file")

    result = examined("terminal", cpu=broken)
    assert result.code == ExitCode.ENVIRONMENT
    assert "broken: libtorch.so" in result.out
    assert f"-> {install_again()}" in result.out
    assert "terminal" in result.out, "the other checks still run"


def test_a_driver_without_a_torch_for_it(
    examined: Callable[..., Any], program: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    program("nvidia-smi", "echo 570.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in examined("gpu").out
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "cannot use driver 570.1" in examined("gpu").out


@pytest.mark.parametrize(
    ("there", "said", "state"),
    [
        ("mps", "Apple GPU (mps): plain PyTorch in fp32 draws", "ok"),
        ("xpu", "Intel GPU (Arc A770) is not used; pictures are drawn on the CPU", "note"),
        ("hip", "25.8 GB of 25.8 GB free, driver unknown, ROCm 6.4", "ok"),
    ],
)
def test_other_devices(
    request: pytest.FixtureRequest, examined: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    there: str, said: str, state: str,
) -> None:  # fmt: skip
    """What runs there and what falls back. Nothing of it is a problem."""
    import torch

    if there == "hip":
        request.getfixturevalue("gpu")
        monkeypatch.setattr(torch.version, "hip", "6.4")
        monkeypatch.setattr(torch.version, "cuda", None)
    else:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there == "mps")
        monkeypatch.setattr(torch.xpu, "is_available", lambda: there == "xpu")
        monkeypatch.setattr(torch.xpu, "get_device_name", lambda device=0: "Arc A770")
    result = examined("gpu", json=True)
    assert result.code == 0
    findings = result.document["findings"]
    assert said in findings[0]["text"]
    assert findings[0]["state"] == state
    if there == "hip":
        assert "AMD: our own kernels are compared with plain PyTorch" in findings[1]["text"]


def test_misuse(sana: Callable[..., Any]) -> None:
    result = sana("doctor", "sana-0.6b")
    assert (result.code, "unexpected argument" in result.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("capability", "rocm", "said"),
    [
        ((7, 5), False, "multiplied by cuBLAS"),
        ((8, 6), False, "no 8-bit floats before compute capability 8.9"),
        ((8, 9), False, ""),
        ((12, 0), False, ""),
        ((9, 4), True, "none has been measured here"),
    ],
    ids=str,
)
def test_what_a_gpu_does_without(capability: tuple[int, int], rocm: bool, said: str) -> None:
    found = list(doctor.gpu_limits(capability, rocm=rocm))
    assert [said in finding.text for finding in found] == [True] * bool(said)
    assert not any(finding.state == "problem" for finding in found)
