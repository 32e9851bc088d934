"""What artists ask for, with a running server: each leaves the files that the command alone leaves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.unit.server.conftest import start

SMALL = ("--size", "64x64", "--steps", 2, "--seed", 3)
MODEL = ("-m", "builtin-control")
CONTROL = ("--control", "lines.png:0.8")
EVERYTHING = (
    *CONTROL, "--control-type", "lineart", "--pag", "2", "--upscale", 2, "--upscale-strength", 0.5, "--wildcards",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[Any]:
    started = start(models=("builtin-control",))
    yield started
    started.end()


@pytest.fixture(autouse=True)
def drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with lines to follow."""
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGB", (64, 64))
    ImageDraw.Draw(image).ellipse((8, 8, 50, 56), outline="white", width=3)
    image.save("lines.png")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (CONTROL, 1),
        (EVERYTHING, 1),
        ((*EVERYTHING, "--format", "webp", "--quality", 80), 1),
        ((*CONTROL, "--pag", "0,2", "--grid"), 3),
        ((*EVERYTHING, "--guidance", "3,4", "-n", 2), 4),
        ((*CONTROL, "--image", "lines.png", "--strength", 0.5), 1),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_options(sana: Callable[..., Any], options: tuple[object, ...], count: int) -> None:
    left = []
    for choice in ("auto", "off"):
        done = sana(
            "generate", "a {cat|dog}", *MODEL, *SMALL, *options, "-o", f"{choice}/", "--server", choice
        )  # fmt: skip
        assert done.code == 0, done.err
        assert ("drawn by the server" in done.err, "drawn here" in done.err) == (
            choice == "auto",
            False,
        )
        left.append({path.name: path.read_bytes() for path in Path(choice).iterdir()})
    assert left[0] == left[1]
    assert len(left[0]) == count


def test_a_prompt_file_and_a_picture_to_repeat(sana: Callable[..., Any]) -> None:
    lines = [
        {"prompt": "a {cat|dog}", "wildcards": True, "pag": "2", "control": "lines.png", "seed": 3},
        {"prompt": "a fox", "upscale": 2, "upscale_strength": 0.5, "control": "lines.png", "control_scale": 0.5},
    ]  # fmt: skip
    Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    batch = ("--prompts", "p.jsonl", *MODEL, *SMALL)
    left = []
    for choice in ("auto", "off"):
        done = sana("generate", *batch, "-o", f"{choice}/", "--server", choice)
        assert done.code == 0, done.err
        assert "drawn here" not in done.err
        pictures = sorted(path for path in Path(choice).iterdir() if path.suffix == ".png")
        assert len(pictures) == 2
        for path in list(pictures):
            again = f"{choice}/{path.stem}-again.png"
            words = ("--from", path, *MODEL, "-o", again, "--server", choice)
            repeated = sana("generate", *words)
            assert repeated.code == 0, repeated.err
            assert Path(again).read_bytes() == path.read_bytes()
        left.append({path.name: path.read_bytes() for path in Path(choice).glob("*.png")})
    assert left[0] == left[1]


def test_a_job_with_uploaded_lines(server: Any, tmp_path: Path) -> None:
    """Over HTTP alone, as other programs ask."""
    import base64

    from sana_cli.pipeline import SanaPipeline

    upload = {
        "data": base64.b64encode(Path("lines.png").read_bytes()).decode(),
        "name": "lines.png",
    }
    asked = {
        "prompt": "a cat",
        "seed": 3,
        "width": 64,
        "height": 64,
        "steps": 2,
        "pag": "2",
        "control_scale": 0.8,
    }
    body = {**asked, "control": upload, "stream": True, "keep": False, "model": "builtin-control"}
    with server.client() as client:
        said = client.post("/v1/jobs", json=body)
    assert said.status_code == 200, said.text
    [picture] = [
        json.loads(data.removeprefix("data: "))
        for name, data in zip(said.text.splitlines(), said.text.splitlines()[1:], strict=False)
        if name == "event: picture"
    ]
    pipeline = SanaPipeline.open("builtin-control")
    pipeline(**asked, control=Path("lines.png")).save("alone.png")
    assert base64.b64decode(picture["png"]) == Path("alone.png").read_bytes()
