"""`sana bench` through the command line, on tiny models."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sana_cli.bench.adapter import make_engine
from sana_cli.bench.contenders import Contender, Workload
from sana_cli.bench.scratch import scratch_folder
from sana_cli.bench.session import PARTS
from sana_cli.errors import ExitCode


@pytest.fixture(scope="module")
def measured(
    sana: Callable[..., Any], pipelines: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """One session with everything on: two schemes, a batch, files, a prediction, a broken condition."""
    folder = tmp_path_factory.mktemp("bench")
    result = sana(
        "bench", "--model", pipelines.folder("plain"), "--size", "96x64", "--steps", 4, "--timed-steps", 3,
        "--batch", 2, "--runs", 2, "--warmup", 1, "--scheme", "fp32,bf16", "--base", "sana-bf16",
        "--device", "cpu", "--predict", "rtx-4090", "--predict-for", "sana-0.6b@512x512",
        "--json", folder / "b.json", "--plot", folder / "b.png", "--html", folder / "b.html",
        "--fail-if", "step>0.000001", "--fail-if", "step>1000",
    )  # fmt: skip
    return result, folder


def document(measured: tuple[Any, Path]) -> dict[str, Any]:
    return json.loads((measured[1] / "b.json").read_text())


def test_a_broken_condition_has_a_code_of_its_own(measured: tuple[Any, Path]) -> None:
    result, _ = measured
    assert result.code == ExitCode.CONDITION, result.err
    assert "step>0.000001" in result.err
    assert "step>1000" not in result.err


def test_every_stage_of_every_contender(measured: tuple[Any, Path]) -> None:
    found = document(measured)
    assert list(found["contenders"]) == ["sana-fp32", "sana-bf16"]
    for name, contender in found["contenders"].items():
        stages = contender["stages"]
        assert {"load", "text", "step", "denoise", "decode", "encode", "total", "cpu"} <= set(
            stages
        )
        assert stages["step"]["count"] == 2 * 3  # runs x timed steps
        assert stages["denoise"]["count"] == stages["prompt"]["count"] == 2
        # Of two rounds, the median is the mean; of six steps, the two shortest are no longer than that.
        mean_step = stages["denoise"]["median"] / 4
        assert 0.999 * stages["step"]["p10"] <= mean_step <= 1.001 * stages["step"]["p90"]
        assert all(stages[s]["first"] > 0 for s in ("text", "step", "decode"))
        assert stages["step"]["flop_per_s"] > 0
        assert contender["peak_host_bytes"] > 2**26, name
    assert found["extrapolated"] == "3 of 4 steps timed"
    assert set(found["machine"]["ceilings"]) >= {"fp32", "int8", "copy"}
    assert found["machine"]["state"]["versions"]["diffusers"]


def test_the_same_picture_as_the_peer_and_almost_the_same_when_quantized(
    pipelines: Any, quantized: Callable[..., Path]
) -> None:
    """The comparison is fair: all start from the same noise, and batches are drawn right."""
    import torch

    workload = Workload(
        prompt="a red fox", width=96, height=64, steps=2, timed_steps=None, batch=2, device="cpu"
    )

    def drawn(kind: Any, model: Path) -> torch.Tensor:
        contender = Contender(name=kind, kind=kind, model=str(model), precision="fp32")
        engine = make_engine(contender, workload)
        for part in PARTS:
            engine.open(part)
            engine.run(part)
            engine.close(part)
        assert engine.picture is not None
        return engine.picture.float()

    plain = pipelines.folder("plain")
    own = drawn("sana", plain)
    assert own.shape == (2, 3, 64, 96)
    assert (own[0] - own[1]).abs().max() > 2, "two pictures"
    assert (drawn("diffusers", plain) - own).abs().max() <= 2
    error = (drawn("sana", quantized("w8a8")) - own).square().mean()
    assert 0 < error < (255 / 10) ** 2, "20 dB"


def test_pictures_and_ratios_refer_to_the_base(measured: tuple[Any, Path]) -> None:
    found = document(measured)
    assert found["base"] == "sana-bf16"
    assert set(found["times_as_fast"]) == {"sana-fp32"}
    assert found["times_as_fast"]["sana-fp32"]["picture"]["count"] == 2
    [compared] = found["pictures"].values()
    assert compared["psnr_db"] > 20


def test_a_prediction_says_what_it_is(measured: tuple[Any, Path]) -> None:
    result, _ = measured
    found = document(measured)["prediction"]
    assert found["assumptions"][0].startswith("PREDICTION")
    int8, bf16 = (found["devices"]["rtx-4090"][scheme] for scheme in ("int8", "bf16"))
    assert 0 < int8["floor"]["denoise"] < bf16["floor"]["denoise"] < bf16["predicted"]["denoise"]
    assert "PREDICTION for sana-0.6b, 512x512" in result.out


def test_every_column_is_explained(measured: tuple[Any, Path]) -> None:
    table, _, legend = measured[0].out.partition("\np10, p90: ")
    for word in ("first", "prepare", "step", "cpu", "ceilings", "of floor"):
        assert word in table
        assert f"{word}: " in legend


def test_pages_and_plots(measured: tuple[Any, Path]) -> None:
    from PIL import Image

    result, folder = measured
    page = (folder / "b.html").read_text()
    assert "extrapolated: 3 of 4 steps timed" in page
    assert "sana-bf16" in page
    assert "times as fast as sana-bf16" in result.out
    with Image.open(folder / "b.png") as picture:
        assert picture.width == 1200
        assert len(picture.getcolors(2**24) or []) > 5  # bars, not an empty page


_WRITES_FOR_EVER = """
import signal, sys, time
from pathlib import Path
from sana_cli.bench import runner
from sana_cli.cli import main

def write(alias, schemes, scratch, reporter):
    Path(scratch, "weights").write_bytes(b"x" * 10**6)
    print("begun", flush=True)
    while True:  # a signal just before a long sleep is noticed only after it
        time.sleep(0.1)

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
runner._random_folder = write
sys.exit(main(["bench", "--random", "sana-0.6b"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_stays_when_it_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITES_FOR_EVER], stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert list(tmp_path.glob("*/weights"))
        process.send_signal(number)
        assert process.wait(timeout=120) == 128 + number
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_goes_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITES_FOR_EVER], stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        (theirs,) = tmp_path.iterdir()
        for path in theirs.iterdir():
            os.utime(path, (0, 0))  # nothing was written for long
        with scratch_folder() as folder:
            assert sorted(tmp_path.iterdir()) == sorted([theirs, folder]), "it is alive"
        process.kill()
        process.wait()
    assert (theirs / "weights").is_file()
    with scratch_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
def test_random_weights_of_a_known_shape(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sana_cli.bench import random_model
    from sana_cli.config.variants import VARIANTS

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    variant = VARIANTS["sana-0.6b"]
    small = replace(
        variant.structure, num_attention_heads=2, num_layers=1, num_cross_attention_heads=2,
        cross_attention_head_dim=32, cross_attention_dim=64, sample_size=2,
    )  # fmt: skip
    gemma = {
        **random_model.GEMMA_2_2B, "num_hidden_layers": 1, "vocab_size": 300, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    }  # fmt: skip
    monkeypatch.setitem(VARIANTS, "sana-0.6b", replace(variant, structure=small))
    monkeypatch.setattr(random_model, "GEMMA_2_2B", gemma)
    result = sana(
        "bench", "--random", "sana-0.6b", "--size", "32x32", "--steps", 1, "--runs", 1, "--warmup", 0,
        "--device", "cpu", "--json", "-",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.document["model"] == "sana-0.6b, random weights"
    assert "GB in" in result.err
    assert not list(tmp_path.iterdir())  # nothing stays


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheme", "int3"], "unknown scheme 'int3'"),
        (["--compare", "nobody"], "cannot compare with 'nobody': unknown model 'nobody'"),
        (["--compare", "sana-0.7b"], "did you mean sana-0.6b"),
        (["--random", "sana-9b"], "unknown variant 'sana-9b'"),
        (["--random", "sana-0.6b", "--model", "builtin"], "not both"),
        (["--runs", "0"], "--runs 0 is out of range"),
        (["--predict", "abacus"], "unknown device 'abacus'"),
        (["--predict", ","], "--predict ',' names no device"),
        (["--scheme", ","], "--scheme ',' names nothing"),
        (["--compare", " "], "--compare ' ' names nothing"),
        (["--plot", "x.txt"], "cannot write x.txt: pictures are saved as .png"),
        (["--predict-for", "sana-0.6b"], "without --predict"),
        (["--fail-if", "speed>1"], "cannot read --fail-if"),
        (["--size", "100x100"], "not a multiple of 32"),
        (["--base", "diffusers"], "--base diffusers is not timed"),
        (["--timed-steps", "0"], "--timed-steps 0"),
        (["--json", "b.png", "--plot", "./b.png"], "--plot and --json would both be b.png"),
    ],
)
def test_bad_input(sana: Callable[..., Any], options: list[str], message: str) -> None:
    result = sana("bench", *options)
    assert result.code == ExitCode.USAGE
    assert message in result.err


def test_a_peer_that_is_not_installed(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("diffusers", "torchao"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    result = sana("bench", "--compare", "torchao")
    assert result.code == ExitCode.ENVIRONMENT
    assert 'pip install "diffusers' in result.err
    assert '"torchao' in result.err
