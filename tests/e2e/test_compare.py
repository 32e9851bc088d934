"""`sana compare`: two models, the same prompts and seeds, one labelled sheet."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.comparison_sheet import Closeness, most_rows
from sana_cli.terminal.progress_bars import ConsoleReporter

SMALL = ("--size", "64x64", "--steps", 1, "--device", "cpu")


@pytest.fixture
def int4(quantized: Callable[..., Path]) -> Path:
    return quantized("int4")


def test_a_memory_cap(
    sana: Callable[..., Any], tiny_model: Path, int4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("compare", tiny_model, int4, *SMALL, "-p", "a fox")
    monkeypatch.setenv("SANA_MAX_MEMORY", "100MiB")
    refused = sana(*words)
    assert refused.code == ExitCode.USAGE
    assert "no plan fits into 100 MiB, set by SANA_MAX_MEMORY" in refused.err
    enough = re.search(r"use (--max-memory) (\w+)", refused.err)
    assert enough is not None
    assert sana(*words, *enough.groups()).code == 0


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_model_and_its_quantized_folder(
    sana: Callable[..., Any], tiny_model: Path, int4: Path, tmp_path: Path
) -> None:
    words = ("compare", tiny_model, int4, *SMALL, "-p", "a fox", "-p", "an owl", "--seed", 7)
    result = sana(*words, "--json")
    assert result.code == 0, result.err
    document = result.document
    assert [model["name"] for model in document["models"]] == [tiny_model.name, "int4"]
    assert document["models"][1]["kernels"]
    found = [(one["prompt"], one["seed"], one["width"]) for one in document["pictures"]]
    assert found == [("a fox", 7, 64), ("an owl", 8, 64)]
    values = [one["psnr_db"] for one in document["pictures"]]
    assert all(5 < value < 99 for value in values)
    assert document["psnr_db_worst"] == min(values)
    assert document["sheet"] == f"compare-{tiny_model.name}-int4.png"
    with Image.open(document["sheet"]) as sheet:
        assert sheet.size == (3 * 64, 24 + 2 * (64 + 24))
    told = sana("info", document["sheet"]).out
    assert "int4" in told
    assert "a fox --seed 7, PSNR" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == [document["sheet"]]

    again = sana(*words)
    assert (again.code, "exists" in again.err) == (ExitCode.USAGE, True)
    assert sana(*words, "-o", tmp_path / "no/a.png").code == ExitCode.USAGE
    again = sana(*words, "-o", f"{tmp_path}/new/")
    assert [path.parent.name for path in tmp_path.glob("*/*.png")] == ["new"], again.err
    again = sana(*words, "--force", "-o", tmp_path)
    assert again.code == 0, again.err
    assert f"PSNR {min(values):.1f} dB" in again.out
    assert again.out.splitlines()[-1].endswith(document["sheet"])


def test_the_same_model_draws_the_same(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    """Lines of a file may say their own seed and size."""
    lines = [{"prompt": "a fox", "seed": 3}, {"prompt": "an owl", "size": "96x64"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("--prompts", "p.jsonl", "-o", "sheet.png", "--json")
    result = sana("compare", tiny_model, tiny_model, *SMALL, *words)
    assert result.code == 0, result.err
    pictures = result.document["pictures"]
    assert [(one["seed"], one["width"], one["psnr_db"]) for one in pictures] == [
        (3, 64, 99.0), (2, 96, 99.0),
    ]  # fmt: skip
    assert [model["name"] for model in result.document["models"]] == [str(tiny_model)] * 2


def test_rows_that_have_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    """Two pictures more than have room: those that differ least are omitted."""
    from sana_cli.bench.compare import Compared, save_sheet

    Image.new("RGB", (32, 32)).save("before.png")
    pairs, found = [], []
    for number in range(most_rows() + 2):
        shade = 200 - number  # the later, the closer
        Image.new("RGB", (32, 32), (shade, shade, shade)).save(f"{number}.png")
        pairs.append((Path("before.png"), Path(f"{number}.png")))
        arrays = [np.asarray(Image.open(path)) for path in pairs[-1]]
        found.append(Compared(prompt=f"p{number}", seed=number, closeness=Closeness.of(*arrays)))
    save_sheet(Path("s.png"), ("one", "two"), found, pairs, False, ConsoleReporter())
    said = f"s.png shows the {most_rows()} of {most_rows() + 2} prompts that differ most"
    assert said in capsys.readouterr().err
    with Image.open("s.png") as sheet:
        assert sheet.height == 24 + most_rows() * (32 + 24)
        shown = str(sheet.info)
    assert f"p{most_rows() - 1} --seed" in shown
    assert f"p{most_rows()} --seed" not in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("builtin", "sana-0.7b"), "unknown model 'sana-0.7b'"),
        (("nobody", "builtin"), "unknown model 'nobody'"),
        (("builtin",), "B"),
        (("builtin", "builtin", "--size", "100x100"), "builtin: "),
        (("builtin", "builtin", "--steps", "0"), "builtin: "),
        (("builtin", "builtin", "-p", ""), "builtin: "),
        (("builtin", "builtin", "--seed", "-5"), "builtin: "),
        (("builtin", "builtin", "-p", "a", "--prompts", "p.txt"), "--prompt or --prompts"),
        (("builtin", "builtin", "--prompts", "no.txt"), "no.txt"),
        (("builtin", "builtin", "-o", "a.jpg"), "pictures are saved as .png"),
        (("builtin", "builtin", "-o", "no/a.png"), "no such folder"),
        (("builtin", "builtin", "-o", "no/", "--steps", "0"), "builtin: "),  # no folder is left
    ],
)
def test_bad_input(
    sana: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    result = sana("compare", *words)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert told in result.err
    assert list(tmp_path.iterdir()) == []
