"""`sana doctor`: it looks at everything, and says what to do about what is broken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli import doctor
from sana_cli.errors import ExitCode

QUICK = ("settings", "disk", "models")  # the rest measures, which takes seconds


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {topic: doctor._CHECKS[topic] for topic in QUICK}
    monkeypatch.setattr(doctor, "_CHECKS", chosen)


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
    assert list(dict.fromkeys(topics)) == list(doctor._CHECKS)
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


def test_a_busy_machine(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the doctor and, with -v, by a run; a single thread waits for nobody."""
    monkeypatch.setattr(doctor, "_CHECKS", {"cpu": doctor._CHECKS["cpu"]})
    monkeypatch.setattr("os.getloadavg", lambda: (99.5, 0.0, 0.0))
    draw = ("generate", "a cat", "--steps", 1, "--size", "32x32", "--device", "cpu", "--force")
    words = ("-v", *draw, "-o", tmp_path / "a.png")
    assert "wait for each other" not in sana(*words).err
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    for told in (sana("doctor").out, sana(*words).err):
        assert "a load of 99.5 on" in told
        assert "the 8 threads of torch wait for each other" in told
        assert "OMP_NUM_THREADS=1" in told
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert "wait for each other" not in sana("doctor").out


@pytest.mark.usefixtures("quick")
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
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, cap: str, state: str, told: str
) -> None:
    monkeypatch.setenv("SANA_MAX_MEMORY", cap)
    findings = sana("doctor", "--json").document["findings"]
    (found,) = [f for f in findings if told in f["text"]]
    assert (found["topic"], found["state"], bool(found["remedy"])) == (
        "settings", state, state != "ok",
    )  # fmt: skip


@pytest.mark.usefixtures("quick")
def test_problems_have_remedies(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    result = sana("doctor")
    assert result.code == ExitCode.ENVIRONMENT
    for told in (
        "SANA_STPES is not a setting, did you mean 'SANA_STEPS'",
        "unknown model 'sana-0.7b'",
        "sana-0.6b is only partly downloaded", "`sana pull sana-0.6b` goes on",
        "broken is unreadable", "`sana remove broken`",
        "1.0 GB free for downloads", "HF_HOME on another disk",
    ):  # fmt: skip
        assert told in result.out
    document = sana("doctor", "--json").document
    bad = [f for f in document["findings"] if f["state"] == "problem"]
    assert document["problems"] == len(bad) == 5
    assert all(f["remedy"] for f in bad)


def test_a_broken_library_is_a_finding(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise ImportError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "_CHECKS", {"cpu": broken, "terminal": doctor._terminal})
    result = sana("doctor")
    assert result.code == ExitCode.ENVIRONMENT
    assert "broken: libtorch.so" in result.out
    assert "-> install the package again" in result.out
    assert "terminal" in result.out, "the other checks still run"


def test_a_driver_without_a_torch_for_it(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: "570.1")
    monkeypatch.setattr(doctor, "_CHECKS", {"gpu": doctor._gpu})
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in sana("doctor").out
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "cannot use driver 570.1" in sana("doctor").out


def test_misuse(sana: Callable[..., Any]) -> None:
    result = sana("doctor", "sana-0.6b")
    assert (result.code, "unexpected extra argument" in result.err) == (ExitCode.USAGE, True)
