"""`--best-of N --score COMMAND`: the picture that another program likes best, and programs that misbehave."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.commands.best_of import Scorer
from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import read_settings
from tests.checker_scorer import ASKED
from tests.pictures import pixels
from training.scenes import Scene, Thing, draw
from training.sprites import Sprites

FAST = ("--size", "64x64", "--steps", 1, "--device", "cpu")
GOOD = 'print(json.dumps({"score": {5: 0.1, 6: 0.9, 7: 0.5}[asked["seed"]]}), flush=True)'


@pytest.fixture
def scorer(tmp_path: Path) -> Callable[[str], str]:
    def made(answer: str) -> str:
        path = tmp_path / "score.py"
        path.write_text(
            "import json, pathlib, sys\nfor line in sys.stdin:\n    asked = json.loads(line)\n"
            f"    assert pathlib.Path(asked['picture']).is_file() and asked['prompt'] == 'a cat'\n    {answer}\n"
        )
        return f"'{sys.executable}' '{path}'"

    return made


def test_the_best_is_kept(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, scorer: Callable[[str], str]
) -> None:
    words = ("generate", "a cat", "-m", tiny_model, *FAST)
    out = tmp_path / "out"
    result = sana(
        *words, "--seed", 5, "--best-of", 3, "--score", scorer(GOOD), "-o", f"{out}/", "--json"
    )
    assert result.code == 0, result.err
    assert result.document["scores"] == [
        {"seed": 5, "score": 0.1},
        {"seed": 6, "score": 0.9},
        {"seed": 7, "score": 0.5},
    ]
    assert [path.name for path in out.iterdir()] == ["a-cat-6.png"]
    settings = read_settings(out / "a-cat-6.png")
    assert (settings.pop("best_of"), settings.pop("score")) == (3, 0.9)
    assert sana(*words, "--seed", 6, "-o", tmp_path / "b.png").code == 0
    assert settings == read_settings(tmp_path / "b.png")
    assert (
        sana(
            "generate", "--from", out / "a-cat-6.png", "-m", tiny_model, "-o", tmp_path / "c.png"
        ).code
        == 0
    )
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize(
    ("more", "end"),
    [
        (("--steps", 4, "--upscale", 2, "--upscale-strength", 0.5, "--pag", "2:1"), "png"),
        (("--wildcards",), "webp"),
        (("--control", "LINES:0.7", "--control-type", "none"), "jpg"),
        (("--image", "LINES", "--strength", 1, "--quality", 60), "webp"),
    ],
    ids=["upscale", "wildcards", "control", "image"],
)
def test_the_best_is_the_picture_of_its_seed(
    sana: Callable[..., Any], pipelines: Any, tmp_path: Path, more: tuple[Any, ...], end: str
) -> None:
    """Whatever else is asked for, and when the best is repeated."""
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "lines.png")
    (tmp_path / "score.py").write_text(
        "import json, sys\nfor line in sys.stdin:\n    print(json.loads(line)['seed'] % 7, flush=True)\n"
    )
    score = f"'{sys.executable}' '{tmp_path / 'score.py'}'"
    more = tuple(str(word).replace("LINES", str(tmp_path / "lines.png")) for word in more)
    model = ("-m", pipelines.folder("controlnet"))
    words = ("generate", "a {red|blue} cat", *model, *FAST, *more)
    best, single, again = (tmp_path / f"{name}.{end}" for name in ("best", "single", "again"))
    done = sana(*words, "--seed", 5, "--best-of", 3, "--score", score, "-o", best)
    assert done.code == 0, done.err
    assert sana(*words, "--seed", 6, "-o", single).code == 0
    assert sana("generate", "--from", best, *model, "-o", again).code == 0
    assert pixels(best).tobytes() == pixels(single).tobytes() == pixels(again).tobytes()


def test_the_checker_of_the_builtin_model_picks_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a scorer: exact drawings of the scene, of another colour, and of nothing."""
    monkeypatch.chdir(Path(__file__).parents[2])
    images = {}
    for name, colour in (("right", "red"), ("blue", "blue"), ("nothing", None)):
        things = (Thing(name="star", colour=colour),) if colour else ()
        scene = Scene(things=things or ASKED.things, background="gray", size="large")
        pixels = draw(scene, Sprites(rgba={}))
        images[name] = Image.fromarray(pixels if things else np.full_like(pixels, 128))
        images[name].save(tmp_path / f"{name}.png")
    settings = {"prompt": "a red star on a gray background", "seed": 5}
    with Scorer(f"'{sys.executable}' -m tests.checker_scorer") as scorer:
        scores = {name: scorer.score(tmp_path / f"{name}.png", settings) for name in images}
    assert scores["right"] == 1
    assert max(scores, key=scores.__getitem__) == "right"
    assert scores["blue"] < 1 > scores["nothing"]


def test_a_program_that_neither_reads_nor_ends(
    tmp_path: Path, scorer: Callable[[str], str]
) -> None:
    (tmp_path / "a.png").touch()
    deaf = scorer("import os, time; os.close(0); print(0.5, flush=True); time.sleep(600)")
    settings = {"prompt": "a cat", "seed": 5}
    with Scorer(deaf, patience_s=0.1) as program:
        assert program.score(tmp_path / "a.png", settings) == 0.5
        with pytest.raises(SanaError, match="has closed its input"):
            program.score(tmp_path / "a.png", settings)


@pytest.mark.parametrize(
    ("answer", "message", "kept"),
    [
        ("sys.exit(3)", "has ended with exit code 3", 0),
        ("print(0.5, flush=True); sys.exit()", "has ended with exit code 0", 1),
        ("print('{}', flush=True)", "answered '{}'", 0),
        ("print('NaN', flush=True)", "answered 'NaN'", 0),
        ("print('1' + '0' * 400, flush=True)", "answered '1000", 0),
        ("print('words' if asked['seed'] > 5 else 0.5, flush=True)", "answered 'words'", 1),
    ],
)
def test_programs_that_misbehave(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, scorer: Callable[[str], str], answer: str, message: str, kept: int
) -> None:  # fmt: skip
    """The best so far is saved."""
    words = ("generate", "a cat", "-m", tiny_model, *FAST, "--seed", 5, "--best-of", 2)
    result = sana(*words, "--score", scorer(answer), "-o", f"{tmp_path}/out/")
    assert (result.code, message in result.err, "hint:" in result.err) == (
        ExitCode.ENVIRONMENT,
        True,
        True,
    ), result.err
    assert len(list((tmp_path / "out").glob("*.png"))) == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--best-of", 2), "--best-of and --score need each other"),
        (
            ("--best-of", 2, "--score", "no-such-program-here"),
            "cannot start --score no-such-program-here",
        ),
        (("--best-of", 2, "--score", "'"), "cannot read --score"),
        (("--best-of", 2, "--score", "cat", "--grid"), "give --best-of or --grid, not both"),
        (
            ("--best-of", 2, "--score", "cat", "--steps", "1,2"),
            "give --best-of or options with several values",
        ),
        (("--best-of", 2, "--score", "cat", "-o", "taken.png"), "taken.png exists"),
    ],
)
def test_bad_input(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[Any, ...], message: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.png").touch()
    result = sana("generate", "a cat", "-m", tiny_model, *options)
    assert (result.code, message in result.err, "hint:" in result.err) == (
        ExitCode.USAGE,
        True,
        True,
    ), result.err


def test_every_name_is_free_before_any_picture_is_drawn(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, scorer: Callable[[str], str]
) -> None:
    """The best is known last: where its name is taken, all work would be lost."""
    (tmp_path / "x-6.png").touch()
    words = ("generate", "a cat", "-m", tiny_model, *FAST, "--seed", 5, "--best-of", 3)
    result = sana(*words, "--score", scorer(GOOD), "-o", tmp_path / "x-{seed}.png")
    assert (result.code, "x-6.png exists" in result.err) == (ExitCode.USAGE, True), result.err
    assert "score" not in result.err
    assert [path.name for path in tmp_path.glob("*.png")] == ["x-6.png"]
